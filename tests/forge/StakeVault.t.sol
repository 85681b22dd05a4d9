// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IStakeVault} from "../../contracts/interfaces/IStakeVault.sol";
import {MarketTest} from "./support/MarketTest.sol";

interface IFeeToken is IERC20 {
    function mint(address to, uint256 amount) external;
    function setFee(uint256 bps) external;
}

/// @notice The provider of the base has 100 tokens active.
contract StakeVaultTest is MarketTest {
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

    function _slash(uint256 amount, address harmed, uint256 cap, address bountyTo, uint256 bounty)
        private
        returns (uint256)
    {
        vm.prank(address(committee));
        return vault.slash(provider, amount, harmed, cap, bountyTo, bounty, RESULT);
    }

    function _assertStake(uint256 active, uint256 pending) private view {
        IStakeVault.Stake memory stake = vault.stakeOf(provider);
        vm.assertEq(stake.active, active);
        vm.assertEq(stake.pending, pending);
    }

    // ------------------------------------------------------------------- stake

    function test_stake_default_behavior() public {
        vm.expectEmit(address(vault));
        emit Staked(provider, provider, 5 ether);
        vm.prank(provider);
        vault.stake(5 ether);
        _assertStake(105 ether, 0);
    }

    function test_anyone_stakes_for_another_and_changes_no_clock() public {
        vm.prank(provider);
        vault.requestUnstake(40 ether);
        uint40 until = vault.stakeOf(provider).pendingUntil;
        _pass(100);
        vm.expectEmit(address(vault));
        emit Staked(provider, stranger, 5 ether);
        vm.prank(stranger);
        vault.stakeFor(provider, 5 ether);
        _assertStake(65 ether, 40 ether);
        vm.assertEq(vault.stakeOf(provider).pendingUntil, until);
    }

    function test_stake_reverts() public {
        vm.expectRevert(IStakeVault.StakeAmountZero.selector);
        vault.stake(0);
        vm.expectRevert(IStakeVault.StakeRecipientZero.selector);
        vault.stakeFor(address(0), 1);
    }

    function test_a_stake_token_that_keeps_a_fee_is_refused() public {
        IFeeToken fee = IFeeToken(_create("HostileToken", ""));
        IStakeVault other = IStakeVault(_create("StakeVault", abi.encode(fee, admin, STAKE, UNBONDING)));
        fee.mint(admin, 100);
        fee.setFee(1000);
        fee.approve(address(other), 100);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTokenMismatch.selector, 100, 90));
        other.stake(100);
    }

    // ----------------------------------------------------------------- unstake

    function test_unbonding_default_behavior() public {
        uint40 until = _now() + UNBONDING;
        vm.expectEmit(address(vault));
        emit UnstakeRequested(provider, 40 ether, until);
        vm.startPrank(provider);
        vault.requestUnstake(40 ether);
        _assertStake(60 ether, 40 ether);
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeStillBonded.selector, provider, until));
        vault.withdrawStake(stranger);
        vm.warp(until);
        vm.expectEmit(address(vault));
        emit StakeWithdrawn(provider, stranger, 40 ether);
        vault.withdrawStake(stranger);
        vm.stopPrank();
        _assertStake(60 ether, 0);
    }

    function test_another_request_restarts_the_clock() public {
        vm.startPrank(provider);
        vault.requestUnstake(40 ether);
        _pass(UNBONDING - 1);
        vault.requestUnstake(10 ether);
        vm.stopPrank();
        _assertStake(50 ether, 50 ether);
        vm.assertEq(vault.stakeOf(provider).pendingUntil, _now() + UNBONDING);
    }

    function test_unbonding_reverts() public {
        vm.startPrank(provider);
        vm.expectRevert(IStakeVault.StakeAmountZero.selector);
        vault.requestUnstake(0);
        vm.expectRevert(
            abi.encodeWithSelector(IStakeVault.StakeInsufficient.selector, provider, 100 ether, 100 ether + 1)
        );
        vault.requestUnstake(100 ether + 1);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeNothingPending.selector, provider));
        vault.withdrawStake(provider);
        vm.expectRevert(IStakeVault.StakeRecipientZero.selector);
        vault.withdrawStake(address(0));
        vm.stopPrank();
    }

    // ------------------------------------------------------------------- slash

    function test_slash_default_behavior_the_harmed_first_then_the_bounty_then_burned() public {
        uint256 supply = token.totalSupply();
        vm.expectEmit(address(vault));
        emit Slashed(provider, renter, 20 ether, 5 ether, 25 ether, RESULT);
        vm.assertEq(_slash(50 ether, renter, 20 ether, stranger, 5 ether), 50 ether);
        _assertStake(50 ether, 0);
        vm.assertEq(vault.compensationOf(renter), 20 ether);
        vm.assertEq(vault.compensationOf(stranger), 5 ether);
        vm.assertEq(token.totalSupply(), supply - 25 ether);
        vm.assertEq(token.balanceOf(address(vault)), 75 ether);
    }

    function test_slash_takes_active_first_then_pending_and_never_more() public {
        vm.prank(provider);
        vault.requestUnstake(70 ether);
        _slash(50 ether, address(0), 99 ether, address(0), 99 ether);
        _assertStake(0, 50 ether);
        vm.assertEq(_slash(80 ether, address(0), 0, address(0), 0), 50 ether);
        _assertStake(0, 0);
        vm.assertEq(_slash(1 ether, renter, 1 ether, address(0), 0), 0);
    }

    function test_the_bounty_takes_nothing_from_the_harmed() public {
        _slash(10 ether, renter, 8 ether, stranger, 5 ether);
        vm.assertEq(vault.compensationOf(renter), 8 ether);
        vm.assertEq(vault.compensationOf(stranger), 2 ether);
    }

    /// @dev A slash during unbonding must not lock what is left of it.
    function test_what_a_slash_leaves_of_a_pending_withdrawal_can_be_withdrawn() public {
        vm.prank(provider);
        vault.requestUnstake(100 ether);
        _slash(40 ether, renter, 40 ether, address(0), 0);
        _pass(UNBONDING);
        vm.prank(provider);
        vault.withdrawStake(provider);
        vm.assertEq(token.balanceOf(address(vault)), 40 ether);
        vm.startPrank(provider);
        vault.stake(5 ether);
        vault.requestUnstake(5 ether);
        _pass(UNBONDING);
        vault.withdrawStake(provider);
        vm.stopPrank();
    }

    function test_only_the_slasher() public {
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.CallerNotSlasher.selector, admin));
        vault.slash(provider, 1, renter, 1, address(0), 0, RESULT);
    }

    function test_compensation_is_pulled() public {
        _slash(50 ether, renter, 20 ether, address(0), 0);
        uint256 before = token.balanceOf(stranger);
        vm.expectEmit(address(vault));
        emit CompensationWithdrawn(renter, stranger, 20 ether);
        vm.startPrank(renter);
        vault.withdrawCompensation(stranger);
        vm.assertEq(token.balanceOf(stranger), before + 20 ether);
        vm.expectRevert(IStakeVault.StakeAmountZero.selector);
        vault.withdrawCompensation(stranger);
        vm.expectRevert(IStakeVault.StakeRecipientZero.selector);
        vault.withdrawCompensation(address(0));
        vm.stopPrank();
    }

    function test_required_stake_is_per_machine() public view {
        vm.assertEq(vault.requiredStake(3), 300 ether);
        vm.assertEq(vault.token(), address(token));
        vm.assertEq(vault.unbondingPeriod(), UNBONDING);
    }
}
