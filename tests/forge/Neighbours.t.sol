// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../contracts/interfaces/IMarketplace.sol";
import {IOracleCommittee} from "../../contracts/interfaces/IOracleCommittee.sol";
import {MarketTest} from "./support/MarketTest.sol";

/// @notice Defects found in other markets, each as the history that shows it there and must not here.
contract NeighboursTest is MarketTest {
    /// @dev Oyster MarketV1: a job left without funds for a day and then topped up paid the provider for the day.
    function test_oyster_back_pay_time_without_funds_is_never_billed() public {
        bytes32 jobId = _running();
        uint40 endsAt = _now() + HOUR;
        _pass(1 days);
        _expectPassed(jobId, endsAt);
        vm.prank(renter);
        market.extendJob(jobId, HOUR);
        vm.prank(provider);
        market.completeJob(jobId);
        _pass(DISPUTE);
        market.settleJob(jobId);
        _assertPaid(3.6 ether, 0);
    }

    /// @dev Oyster MarketV1: a top-up just before the end must not make an outage before it billable either.
    function test_oyster_back_pay_a_top_up_changes_nothing_already_measured() public {
        bytes32 jobId = _running();
        uint40 startedAt = _now();
        _pass(1800);
        vm.prank(address(committee));
        market.recordOutage(jobId, startedAt + 600, startedAt + 1200);
        uint40 before = market.billableSeconds(jobId, _now());
        vm.prank(stranger);
        market.extendJob(jobId, HOUR);
        vm.assertEq(market.billableSeconds(jobId, _now()), before);
        vm.assertEq(before, 1200);
    }

    /// @dev Oyster MarketV1: every exit pushed tokens to the provider first. Here no exit moves a token.
    function test_oyster_stuck_funds_no_exit_moves_a_token() public {
        for (uint8 i = 1; i < 8; ++i) {
            uint256 state = vm.snapshotState();
            bytes32 jobId = _jobIn(IMarketplace.JobStatus(i));
            vm.etch(address(token), hex"fe"); // every call of the token fails
            for (uint256 step = 0; step < 3; ++step) {
                IMarketplace.Deadline memory due = market.nextDeadline(jobId);
                if (due.selector == bytes4(0)) break;
                if (_now() < due.timestamp) vm.warp(due.timestamp);
                (bool done,) = address(market).call(abi.encodeWithSelector(due.selector, jobId));
                vm.assertTrue(done);
            }
            vm.assertEq(_locked(jobId), 0);
            vm.revertToState(state);
        }
    }

    /// @dev iExec PoCo Boost: the sponsor was locked and the requester seized. Here a stranger pays, and only the job's lock is spent.
    function test_poco_wrong_seize_who_is_locked_is_who_is_spent() public {
        bytes32 jobId = _running();
        vm.prank(stranger);
        market.extendJob(jobId, HOUR);
        uint256 renters = token.balanceOf(renter);
        uint256 strangers = token.balanceOf(stranger);
        _pass(2 * HOUR);
        market.endJob(jobId);
        _pass(DISPUTE);
        market.settleJob(jobId);
        _assertPaid(7.2 ether, 0);
        vm.assertEq(token.balanceOf(renter), renters);
        vm.assertEq(token.balanceOf(stranger), strangers);
    }

    /// @dev Celium collateral: a slash during a pending reclaim locked what it left.
    function test_celium_pending_slash_the_rest_can_leave() public {
        vm.prank(provider);
        vault.requestUnstake(STAKE);
        vm.prank(address(committee));
        vault.slash(provider, 40 ether, renter, 5 ether, address(0), 0, bytes32(0));
        vm.assertEq(vault.stakeOf(provider).pending, STAKE - 40 ether);
        _pass(UNBONDING);
        uint256 before = token.balanceOf(provider);
        vm.prank(provider);
        vault.withdrawStake(provider);
        vm.assertEq(token.balanceOf(provider) - before, STAKE - 40 ether);
    }

    /// @dev Lilypad: the controller called time-outs by names that did not exist. Here the call that `nextDeadline` names is made through
    /// the entry point, for every state.
    function test_lilypad_misnamed_timeouts_every_named_call_exists() public {
        for (uint8 i = 1; i < 7; ++i) {
            uint256 state = vm.snapshotState();
            bytes32 jobId = _jobIn(IMarketplace.JobStatus(i));
            IMarketplace.Deadline memory due = market.nextDeadline(jobId);
            if (due.selector != bytes4(0)) {
                if (_now() < due.timestamp) vm.warp(due.timestamp);
                vm.prank(stranger);
                (bool done,) = address(market).call(abi.encodeWithSelector(due.selector, jobId));
                vm.assertTrue(done);
                vm.assertTrue(uint256(_status(jobId)) != i || _locked(jobId) == 0);
            }
            vm.revertToState(state);
        }
    }

    /// @dev Livepeer: anybody could fund a broadcaster with nothing and cancel its unlock.
    function test_livepeer_forced_unlock_a_third_party_moves_no_clock() public {
        vm.prank(provider);
        vault.requestUnstake(STAKE);
        uint40 until = vault.stakeOf(provider).pendingUntil;
        _pass(10);
        vm.prank(stranger);
        vault.stakeFor(provider, 1);
        vm.assertEq(vault.stakeOf(provider).pendingUntil, until);
    }

    /// @dev PrimeIntellect: slashed stake went to whoever judged. Here nobody who sends a report gains by it.
    function test_primeintellect_the_judge_is_never_paid() public {
        uint256 before = token.balanceOf(address(committee));
        vm.prank(address(committee));
        vault.slash(provider, STAKE, renter, 5 ether, address(0), 0, bytes32(0));
        vm.assertEq(token.balanceOf(address(committee)), before);
        vm.assertEq(vault.compensationOf(address(committee)), 0);
        vm.assertEq(vault.compensationOf(renter), 5 ether);
    }

    /// @dev One lying member of three, two needed: alone it can neither report, nor report with another's signature twice.
    function test_f_lying_oracles_cannot_report() public {
        IOracleCommittee.Report memory lie =
            IOracleCommittee.Report(committee.configDigest(), 1, 1, keccak256("lie"), 1, bytes32(0));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(signerKeys[1], committee.hashReport(lie));
        bytes memory one = abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignaturesTooFew.selector, 1, 2));
        committee.submitValidationReport(lie, 2, one);
        for (uint256 mask = 0; mask < 16; ++mask) {
            (bool done,) = address(committee)
                .call(abi.encodeCall(committee.submitValidationReport, (lie, mask, bytes.concat(one, one))));
            vm.assertFalse(done);
        }
        vm.assertEq(committee.latestSeq(), 0);
    }
}
