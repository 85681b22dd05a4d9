// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {IReputationSystem} from "../../../contracts/interfaces/IReputationSystem.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract CancelExpireEndTest is MarketTest {
    event JobCancelled(bytes32 indexed jobId, IMarketplace.EndReason reason);
    event JobCompleted(
        bytes32 indexed jobId,
        IMarketplace.EndReason reason,
        uint40 billableSeconds,
        uint96 finalCost,
        bytes32 resultCid
    );
    event JobRecorded(address indexed provider, IReputationSystem.JobOutcome outcome);

    // ------------------------------------------------------------------ cancel

    function test_cancel_default_behavior() public {
        bytes32 jobId = _created();
        vm.expectEmit(address(market));
        emit JobCancelled(jobId, IMarketplace.EndReason.RenterCancelled);
        vm.prank(renter);
        market.cancelJob(jobId);
        _assertStatus(jobId, IMarketplace.JobStatus.Cancelled);
        _assertPaid(0, 3.6 ether);
        vm.assertEq(market.activeJobOf(resourceId), bytes32(0));
        vm.assertEq(reputation.scores(provider).totalJobs, 0);
    }

    function test_only_the_renter_cancels() public {
        bytes32 jobId = _created();
        _expectUnauthorized(jobId, provider);
        vm.prank(provider);
        market.cancelJob(jobId);
    }

    // ------------------------------------------------------------------ expire

    function test_anyone_expires_a_job_nobody_accepted() public {
        bytes32 jobId = _created();
        uint40 deadline = _now() + ACCEPT;
        vm.warp(deadline - 1);
        _expectNotReached(jobId, deadline);
        market.expireJob(jobId);
        vm.warp(deadline);
        vm.expectEmit(address(market));
        emit JobCancelled(jobId, IMarketplace.EndReason.NotAccepted);
        vm.prank(stranger);
        market.expireJob(jobId);
        _assertPaid(0, 3.6 ether);
        vm.assertEq(reputation.scores(provider).totalJobs, 0);
    }

    function test_anyone_expires_a_job_not_started_and_it_counts_against_the_provider() public {
        bytes32 jobId = _accepted();
        uint40 deadline = _now() + START;
        vm.warp(deadline - 1);
        _expectNotReached(jobId, deadline);
        market.expireJob(jobId);
        vm.warp(deadline);
        vm.expectEmit(address(market));
        emit JobCancelled(jobId, IMarketplace.EndReason.NotStarted);
        vm.expectEmit(address(reputation));
        emit JobRecorded(provider, IReputationSystem.JobOutcome.NotStarted);
        vm.prank(stranger);
        market.expireJob(jobId);
        _assertPaid(0, 3.6 ether);
        vm.assertEq(reputation.scores(provider).totalJobs, 1);
        vm.assertEq(reputation.scores(provider).successfulJobs, 0);
    }

    // --------------------------------------------------------------------- end

    function test_anyone_ends_a_job_after_its_time() public {
        bytes32 jobId = _running();
        uint40 deadline = _now() + HOUR;
        vm.warp(deadline - 1);
        _expectNotReached(jobId, deadline);
        market.endJob(jobId);
        vm.warp(deadline + 50);
        vm.expectEmit(address(market));
        emit JobCompleted(jobId, IMarketplace.EndReason.TimeOver, HOUR, 3.6 ether, bytes32(0));
        vm.prank(stranger);
        market.endJob(jobId);
        vm.assertEq(market.getJob(jobId).endedAt, deadline);
        vm.assertEq(_locked(jobId), 3.6 ether);
    }

    function test_anyone_ends_a_job_whose_host_is_dead() public {
        bytes32 jobId = _running();
        uint40 startedAt = _now();
        _pass(1000);
        vm.prank(address(committee));
        market.recordDeath(jobId, startedAt + 400);
        vm.expectEmit(address(market));
        emit JobCompleted(jobId, IMarketplace.EndReason.ProviderDead, 400, 0.4 ether, bytes32(0));
        vm.prank(stranger);
        market.endJob(jobId);
        vm.assertEq(market.getJob(jobId).endedAt, startedAt + 400);
        vm.assertEq(_credit(renter), 3.2 ether);

        _pass(DISPUTE);
        market.settleJob(jobId);
        _assertPaid(0.4 ether, 3.2 ether);
        vm.assertEq(reputation.scores(provider).totalJobs, 1);
        vm.assertEq(reputation.scores(provider).successfulJobs, 0);
    }

    function test_a_dead_hosts_job_bills_no_minimum() public {
        bytes32 jobId = _running();
        uint40 startedAt = _now();
        _pass(1000);
        vm.prank(address(committee));
        market.recordDeath(jobId, startedAt + 10);
        vm.prank(renter);
        market.stopJob(jobId);
        _assertPaid(0.01 ether, 3.59 ether);
    }

    function test_whoever_ends_a_dead_hosts_job_it_ends_as_that() public {
        bytes32 jobId = _running();
        uint40 startedAt = _now();
        _pass(1000);
        vm.prank(address(committee));
        market.recordDeath(jobId, startedAt + 400);
        vm.expectEmit(address(market));
        emit JobCompleted(jobId, IMarketplace.EndReason.ProviderDead, 400, 0.4 ether, RESULT);
        vm.prank(provider);
        market.completeJob(jobId, RESULT);
    }
}
