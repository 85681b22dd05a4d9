// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {IReputationSystem} from "../../../contracts/interfaces/IReputationSystem.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract DisputeTest is MarketTest {
    event JobDisputed(bytes32 indexed jobId, address indexed initiator, string reason, uint96 contestedAmount);
    event JobResolved(bytes32 indexed jobId, IMarketplace.Verdict verdict, bool byTimeout);
    event JobRecorded(address indexed provider, IReputationSystem.JobOutcome outcome);
    event EvidenceSubmitted(bytes32 indexed jobId, address indexed party, bytes32 evidenceCid);

    function test_default_behavior() public {
        bytes32 jobId = _running();
        _pass(1000);
        vm.expectEmit(address(market));
        emit JobDisputed(jobId, renter, "no output", 1 ether);
        vm.prank(renter);
        market.disputeJob(jobId, "no output");
        _assertStatus(jobId, IMarketplace.JobStatus.Disputed);
        vm.assertEq(market.getJob(jobId).endedAt, _now());
        vm.assertEq(_credit(renter), 2.6 ether);
        vm.assertEq(_locked(jobId), 1 ether);
        vm.assertEq(market.activeJobOf(resourceId), bytes32(0));
    }

    function test_the_provider_may_dispute_too() public {
        bytes32 jobId = _running();
        _pass(1000);
        vm.prank(provider);
        market.disputeJob(jobId, "mining");
        _assertStatus(jobId, IMarketplace.JobStatus.Disputed);
    }

    function test_before_the_start_nothing_is_contested() public {
        bytes32 jobId = _accepted();
        _pass(100);
        vm.expectEmit(address(market));
        emit JobDisputed(jobId, renter, "", 0);
        vm.prank(renter);
        market.disputeJob(jobId, "");
        _assertPaid(0, 3.6 ether);
        vm.prank(address(committee));
        market.resolveDispute(jobId, IMarketplace.Verdict.UserFault);
        _assertPaid(0, 3.6 ether);
    }

    function test_the_renter_disputes_a_completed_job_inside_the_window() public {
        bytes32 jobId = _completedAfter(1000);
        uint40 endedAt = _now();
        _pass(DISPUTE - 1);
        vm.prank(renter);
        market.disputeJob(jobId, "empty results");
        vm.assertEq(market.getJob(jobId).endedAt, endedAt);
        vm.assertEq(_locked(jobId), 1 ether);
        vm.assertEq(reputation.scores(provider).totalJobs, 0);
    }

    function test_not_after_the_window() public {
        bytes32 jobId = _completedAfter(1000);
        uint40 deadline = _now() + DISPUTE;
        vm.warp(deadline);
        _expectPassed(jobId, deadline);
        vm.prank(renter);
        market.disputeJob(jobId, "");
    }

    function test_not_by_the_provider_once_completed() public {
        bytes32 jobId = _completedAfter(1000);
        _expectUnauthorized(jobId, provider);
        vm.prank(provider);
        market.disputeJob(jobId, "");
    }

    function test_not_once_paid() public {
        bytes32 jobId = _running();
        vm.prank(renter);
        market.stopJob(jobId);
        _expectStatusInvalid(jobId, IMarketplace.JobStatus.Completed);
        vm.prank(renter);
        market.disputeJob(jobId, "");
    }

    function test_not_by_a_stranger() public {
        bytes32 jobId = _running();
        _expectUnauthorized(jobId, stranger);
        vm.prank(stranger);
        market.disputeJob(jobId, "");
    }

    function test_reason_size_bound() public {
        bytes32 jobId = _running();
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.DisputeReasonTooLong.selector, 257, 256));
        vm.prank(renter);
        market.disputeJob(jobId, string(new bytes(257)));
        vm.prank(renter);
        market.disputeJob(jobId, string(new bytes(256)));
    }

    // ---------------------------------------------------------------- evidence

    function test_either_party_submits_evidence() public {
        bytes32 jobId = _disputedAfter(10);
        vm.expectEmit(address(market));
        emit EvidenceSubmitted(jobId, provider, RESULT);
        vm.prank(provider);
        market.submitEvidence(jobId, RESULT);
        vm.prank(renter);
        market.submitEvidence(jobId, RESULT);
        _expectUnauthorized(jobId, stranger);
        vm.prank(stranger);
        market.submitEvidence(jobId, RESULT);
    }

    // ---------------------------------------------------------------- verdicts

    function test_provider_fault_gives_everything_back() public {
        bytes32 jobId = _disputedAfter(1000);
        vm.expectEmit(address(market));
        emit JobResolved(jobId, IMarketplace.Verdict.ProviderFault, false);
        vm.expectEmit(address(reputation));
        emit JobRecorded(provider, IReputationSystem.JobOutcome.DisputeLost);
        vm.prank(address(committee));
        market.resolveDispute(jobId, IMarketplace.Verdict.ProviderFault);
        _assertPaid(0, 3.6 ether);
        _assertStatus(jobId, IMarketplace.JobStatus.Resolved);
    }

    function test_user_fault_pays_what_ran() public {
        bytes32 jobId = _disputedAfter(1000);
        vm.expectEmit(address(reputation));
        emit JobRecorded(provider, IReputationSystem.JobOutcome.Completed);
        vm.prank(address(committee));
        market.resolveDispute(jobId, IMarketplace.Verdict.UserFault);
        _assertPaid(1 ether, 2.6 ether);
    }

    function test_split_halves_what_ran() public {
        bytes32 jobId = _disputedAfter(1000);
        vm.prank(address(committee));
        market.resolveDispute(jobId, IMarketplace.Verdict.SplitPayment);
        _assertPaid(0.5 ether, 3.1 ether);
        vm.assertEq(reputation.scores(provider).disputes, 1);
    }

    function test_the_odd_unit_of_a_split_goes_to_the_renter() public {
        vm.prank(provider);
        registry.updatePricing(resourceId, 3600 * 3);
        vm.prank(renter);
        bytes32 jobId = market.createJob(resourceId, IMAGE, HOUR);
        vm.startPrank(provider);
        market.acceptJob(jobId);
        market.startJob(jobId);
        vm.stopPrank();
        _pass(101);
        vm.prank(renter);
        market.disputeJob(jobId, "");
        _pass(VERDICT);
        market.resolveByTimeout(jobId);
        // 303 contested: 151 to the provider less a fee of 3, 152 back.
        vm.assertEq(_credit(provider), 148);
        vm.assertEq(escrow.feesOf(address(token)), 3);
        vm.assertEq(_credit(renter), 3 * 3600 - 151);
    }

    function test_what_was_settled_before_stays_paid() public {
        bytes32 jobId = _running();
        _pass(1000);
        market.settleJob(jobId);
        _pass(500);
        vm.prank(renter);
        market.disputeJob(jobId, "");
        vm.prank(address(committee));
        market.resolveDispute(jobId, IMarketplace.Verdict.ProviderFault);
        _assertPaid(1 ether, 2.6 ether);
    }

    function test_anyone_splits_when_no_verdict_came() public {
        bytes32 jobId = _disputedAfter(1000);
        uint40 deadline = _now() + VERDICT;
        vm.warp(deadline - 1);
        _expectNotReached(jobId, deadline);
        market.resolveByTimeout(jobId);
        vm.warp(deadline);
        vm.expectEmit(address(market));
        emit JobResolved(jobId, IMarketplace.Verdict.SplitPayment, true);
        vm.prank(stranger);
        market.resolveByTimeout(jobId);
        _assertPaid(0.5 ether, 3.1 ether);
    }

    function test_a_late_verdict_counts_if_nobody_split_yet() public {
        bytes32 jobId = _disputedAfter(1000);
        _pass(VERDICT * 2);
        vm.prank(address(committee));
        market.resolveDispute(jobId, IMarketplace.Verdict.UserFault);
        _assertPaid(1 ether, 2.6 ether);
    }

    function test_only_the_committee_decides() public {
        bytes32 jobId = _disputedAfter(1000);
        _expectUnauthorized(jobId, admin);
        market.resolveDispute(jobId, IMarketplace.Verdict.UserFault);
    }
}
