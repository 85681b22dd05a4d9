// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract OutageDeathTest is MarketTest {
    event OutageRecorded(bytes32 indexed jobId, uint40 from, uint40 to);
    event DeathRecorded(bytes32 indexed jobId, uint40 timestamp);

    uint40 private start;

    function _runningFor(uint256 time) private returns (bytes32 jobId) {
        jobId = _running();
        start = _now();
        _pass(time);
        vm.startPrank(address(committee));
    }

    function _expectInvalid(bytes32 jobId, uint40 from, uint40 to) private {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.OutageInvalid.selector, jobId, from, to));
    }

    // ------------------------------------------------------------------ outage

    function test_outage_default_behavior() public {
        bytes32 jobId = _runningFor(1000);
        vm.expectEmit(address(market));
        emit OutageRecorded(jobId, start + 100, start + 300);
        market.recordOutage(jobId, start + 100, start + 300);
        vm.assertEq(market.getJob(jobId).outageSeconds, 200);
        vm.assertEq(market.billableSeconds(jobId, start + 1000), 800);
    }

    function test_overlapping_reports_count_once() public {
        bytes32 jobId = _runningFor(1000);
        market.recordOutage(jobId, start + 100, start + 300);
        market.recordOutage(jobId, start + 200, start + 350);
        vm.assertEq(market.getJob(jobId).outageSeconds, 250);
        _expectInvalid(jobId, start + 150, start + 350);
        market.recordOutage(jobId, start + 150, start + 350);
    }

    function test_clamped_to_the_time_the_clock_ran() public {
        bytes32 jobId = _runningFor(1000);
        vm.expectEmit(address(market));
        emit OutageRecorded(jobId, start, start + 1000);
        market.recordOutage(jobId, start - 500, start + 5000);
        vm.assertEq(market.billableSeconds(jobId, start + 1000), MIN);
    }

    function test_clamped_to_the_paid_time() public {
        bytes32 jobId = _runningFor(HOUR + 500);
        market.recordOutage(jobId, start + HOUR - 10, start + HOUR + 400);
        vm.assertEq(market.getJob(jobId).outageSeconds, 10);
    }

    function test_empty_or_outside_reverts() public {
        bytes32 jobId = _runningFor(1000);
        _expectInvalid(jobId, start + 300, start + 300);
        market.recordOutage(jobId, start + 300, start + 300);
        _expectInvalid(jobId, start + 1000, start + 1200);
        market.recordOutage(jobId, start + 1000, start + 1200);
    }

    function test_settled_time_is_not_taken_back() public {
        bytes32 jobId = _runningFor(1000);
        market.settleJob(jobId);
        market.recordOutage(jobId, start, start + 900);
        vm.stopPrank();
        vm.prank(renter);
        market.stopJob(jobId);
        _assertPaid(1 ether, 2.6 ether);
    }

    function test_counts_on_a_completed_job_until_it_is_paid() public {
        bytes32 jobId = _completedAfter(1000);
        uint40 startedAt = market.getJob(jobId).startedAt;
        vm.prank(address(committee));
        market.recordOutage(jobId, startedAt + 500, startedAt + 700);
        _pass(DISPUTE);
        market.settleJob(jobId);
        _assertPaid(0.8 ether, 2.8 ether);
        _expectStatusInvalid(jobId, IMarketplace.JobStatus.Completed);
        vm.prank(address(committee));
        market.recordOutage(jobId, startedAt, startedAt + 100);
    }

    function test_counts_on_a_disputed_job() public {
        bytes32 jobId = _disputedAfter(1000);
        uint40 startedAt = market.getJob(jobId).startedAt;
        vm.startPrank(address(committee));
        market.recordOutage(jobId, startedAt + 500, startedAt + 700);
        market.resolveDispute(jobId, IMarketplace.Verdict.UserFault);
        vm.stopPrank();
        _assertPaid(0.8 ether, 2.8 ether);
    }

    function test_a_job_disputed_before_its_start_has_no_outage() public {
        bytes32 jobId = _accepted();
        vm.prank(renter);
        market.disputeJob(jobId, "");
        uint40 now_ = _now();
        _expectInvalid(jobId, now_ - 10, now_);
        vm.prank(address(committee));
        market.recordOutage(jobId, now_ - 10, now_);
    }

    // ------------------------------------------------------------------- death

    function test_death_default_behavior() public {
        bytes32 jobId = _runningFor(1000);
        vm.expectEmit(address(market));
        emit DeathRecorded(jobId, start + 400);
        market.recordDeath(jobId, start + 400);
        vm.assertEq(market.getJob(jobId).deadAt, start + 400);
        vm.assertEq(market.nextDeadline(jobId).timestamp, start + 400);
        vm.assertEq(market.billableSeconds(jobId, start + 1000), 400);
    }

    function test_death_before_the_start_bills_nothing() public {
        bytes32 jobId = _runningFor(1000);
        market.recordDeath(jobId, start - 50);
        vm.assertEq(market.getJob(jobId).deadAt, start);
        market.endJob(jobId);
        vm.stopPrank();
        _assertPaid(0, 3.6 ether);
        _pass(DISPUTE);
        market.settleJob(jobId);
        _assertPaid(0, 3.6 ether);
    }

    function test_dead_once_and_not_in_the_future() public {
        bytes32 jobId = _runningFor(1000);
        _expectInvalid(jobId, start + 1001, 0);
        market.recordDeath(jobId, start + 1001);
        market.recordDeath(jobId, start + 1000);
        _expectInvalid(jobId, start + 500, 0);
        market.recordDeath(jobId, start + 500);
    }

    function test_a_dispute_of_a_dead_hosts_job_contests_the_living_time() public {
        bytes32 jobId = _runningFor(1000);
        market.recordDeath(jobId, start + 400);
        vm.stopPrank();
        vm.prank(renter);
        market.disputeJob(jobId, "gone");
        vm.assertEq(_locked(jobId), 0.4 ether);
    }

    function test_settling_stops_at_the_death() public {
        bytes32 jobId = _runningFor(1000);
        market.recordDeath(jobId, start + 400);
        market.settleJob(jobId);
        vm.stopPrank();
        _assertPaid(0.4 ether, 0);
    }

    function test_both_are_the_committees() public {
        bytes32 jobId = _running();
        _expectUnauthorized(jobId, provider);
        vm.prank(provider);
        market.recordOutage(jobId, 1, 2);
        _expectUnauthorized(jobId, admin);
        market.recordDeath(jobId, 1);
    }
}
