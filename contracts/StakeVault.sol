// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IStakeVault} from "./interfaces/IStakeVault.sol";

/// @title Bonds of providers and oracles
/// @dev No admin. Trust: the slasher, fixed at deployment, decides who is slashed; never who gets it beyond the caps it names.
contract StakeVault is IStakeVault, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    address public immutable token;
    address public immutable slasher;
    uint256 public immutable stakePerResource;
    uint40 public immutable unbondingPeriod;

    mapping(address account => Stake) private _stakes;
    mapping(address account => uint256) private _compensations;

    /// @param stakeToken Must have `burn(uint256)`
    /// @param stakeSlasher The committee
    /// @param perResource Base units of active stake for each listed machine
    /// @param unbonding Seconds; longer than the market's dispute window
    constructor(address stakeToken, address stakeSlasher, uint256 perResource, uint40 unbonding) {
        token = stakeToken;
        slasher = stakeSlasher;
        stakePerResource = perResource;
        unbondingPeriod = unbonding;
    }

    /// @inheritdoc IStakeVault
    function stake(uint256 amount) external nonReentrant {
        _stake(msg.sender, amount);
    }

    /// @inheritdoc IStakeVault
    function stakeFor(address account, uint256 amount) external nonReentrant {
        if (account == address(0)) revert StakeRecipientZero();
        _stake(account, amount);
    }

    /// @inheritdoc IStakeVault
    function requestUnstake(uint256 amount) external {
        if (amount == 0) revert StakeAmountZero();
        Stake storage bond = _stakes[msg.sender];
        uint128 active = bond.active;
        if (amount > active) revert StakeInsufficient(msg.sender, active, amount);

        uint40 availableAt = uint40(block.timestamp) + unbondingPeriod;
        bond.active = active - uint128(amount);
        bond.pending += uint128(amount);
        bond.pendingUntil = availableAt;
        emit UnstakeRequested(msg.sender, amount, availableAt);
    }

    /// @inheritdoc IStakeVault
    function withdrawStake(address to) external nonReentrant {
        if (to == address(0)) revert StakeRecipientZero();
        Stake storage bond = _stakes[msg.sender];
        (uint128 amount, uint40 until) = (bond.pending, bond.pendingUntil);
        if (amount == 0) revert StakeNothingPending(msg.sender);
        if (block.timestamp < until) revert StakeStillBonded(msg.sender, until);

        bond.pending = 0;
        bond.pendingUntil = 0;
        emit StakeWithdrawn(msg.sender, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    /// @inheritdoc IStakeVault
    function withdrawCompensation(address to) external nonReentrant {
        if (to == address(0)) revert StakeRecipientZero();
        uint256 amount = _compensations[msg.sender];
        if (amount == 0) revert StakeAmountZero();

        _compensations[msg.sender] = 0;
        emit CompensationWithdrawn(msg.sender, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    /// @inheritdoc IStakeVault
    function slash(
        address account,
        uint256 amount,
        address harmed,
        uint256 compensationCap,
        address bountyTo,
        uint256 bounty,
        bytes32 reason
    ) external nonReentrant returns (uint256 taken) {
        if (msg.sender != slasher) revert CallerNotSlasher(msg.sender);
        Stake storage bond = _stakes[account];
        (uint128 active, uint128 pending) = (bond.active, bond.pending);
        taken = Math.min(amount, uint256(active) + pending);
        uint256 fromActive = Math.min(taken, active);

        bond.active = active - uint128(fromActive);
        bond.pending = pending - uint128(taken - fromActive);
        uint256 compensation = harmed == address(0) ? 0 : Math.min(compensationCap, taken);
        uint256 reward = bountyTo == address(0) ? 0 : Math.min(bounty, taken - compensation);
        uint256 burned = taken - compensation - reward;
        if (compensation > 0) _compensations[harmed] += compensation;
        if (reward > 0) _compensations[bountyTo] += reward;
        emit Slashed(account, harmed, compensation, reward, burned, reason);

        if (burned > 0) ERC20Burnable(token).burn(burned);
    }

    // ------------------------------------------------------------------- views

    function stakeOf(address account) external view returns (Stake memory) {
        return _stakes[account];
    }

    function compensationOf(address account) external view returns (uint256) {
        return _compensations[account];
    }

    /// @inheritdoc IStakeVault
    function requiredStake(uint256 resources) external view returns (uint256) {
        return resources * stakePerResource;
    }

    /// @inheritdoc IStakeVault
    function isBonded(address account, uint256 resources) external view returns (bool) {
        return _stakes[account].active >= resources * stakePerResource;
    }

    // ----------------------------------------------------------------- private

    function _stake(address account, uint256 amount) private {
        if (amount == 0) revert StakeAmountZero();

        Stake storage bond = _stakes[account];
        bond.active = (uint256(bond.active) + amount).toUint128();
        emit Staked(account, msg.sender, amount);

        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert StakeTokenMismatch(amount, received);
    }
}
