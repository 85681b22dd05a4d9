// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Bonds of providers and oracles
/// @notice Not upgradeable. Stake can leave only through unbonding, during which it stays slashable. A slash goes to the
/// harmed renter first, then a bounty, then is burned; never to a judge, an owner or an operator.
interface IStakeVault {
    struct Stake {
        uint128 active;
        uint128 pending; // unbonding, still slashable
        uint40 pendingUntil;
    }

    event Staked(address indexed account, address indexed payer, uint256 amount);
    event UnstakeRequested(address indexed account, uint256 amount, uint40 availableAt);
    event StakeWithdrawn(address indexed account, address to, uint256 amount);
    event Slashed(
        address indexed account,
        address indexed harmed,
        uint256 compensation,
        uint256 bounty,
        uint256 burned,
        bytes32 reason
    );
    event CompensationWithdrawn(address indexed account, address to, uint256 amount);

    error StakeAmountZero();
    error StakeInsufficient(address account, uint256 active, uint256 asked);
    error StakeStillBonded(address account, uint40 until);
    error StakeNothingPending(address account);
    error CallerNotSlasher(address caller);
    error StakeTokenMismatch(uint256 expected, uint256 received);
    error StakeRecipientZero();

    function stake(uint256 amount) external;
    function stakeFor(address account, uint256 amount) external;
    /// @notice Adds to what is unbonding and restarts its clock.
    function requestUnstake(uint256 amount) external;
    function withdrawStake(address to) external;
    function withdrawCompensation(address to) external;

    /// @notice The slasher (the committee contract) only. Takes up to `amount`, active stake first, then pending.
    /// @param harmed Compensated first, up to `compensationCap`; zero for nobody
    /// @param bountyTo Gets `bounty` of the remainder; zero for nobody
    /// @return taken What was really there to take
    function slash(
        address account,
        uint256 amount,
        address harmed,
        uint256 compensationCap,
        address bountyTo,
        uint256 bounty,
        bytes32 reason
    ) external returns (uint256 taken);

    function stakeOf(address account) external view returns (Stake memory);
    function compensationOf(address account) external view returns (uint256);
    /// @notice Active stake a provider needs for `resources` listed machines.
    function requiredStake(uint256 resources) external view returns (uint256);
    /// @notice `stakeOf(account).active >= requiredStake(resources)`, in one storage read.
    function isBonded(address account, uint256 resources) external view returns (bool);
    function token() external view returns (address);
    function unbondingPeriod() external view returns (uint40);
}
