// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract ExtendSettleTest is MarketTest {
    event JobExtended(bytes32 indexed jobId, address indexed payer, uint40 duration, uint96 amount);
    event JobSettled(bytes32 indexed jobId, uint40 settledSeconds, uint96 amount);

    // ------------------------------------------------------------------ extend

    function test_extend_default_behavior() public {
        bytes32 jobId = _running();
        uint40 startedAt = _now();
        vm.prank(provider);
        registry.updatePricing(resourceId, PRICE * 9);
        vm.expectEmit(address(market));
        emit JobExtended(jobId, stranger, 2 * HOUR, 3.6 ether);
        vm.prank(stranger);
        market.extendJob(jobId, HOUR);

        IMarketplace.Job memory job = market.getJob(jobId);
        vm.assertEq(job.duration, 2 * HOUR);
        vm.assertEq(job.lockedAmount, 7.2 ether);
        vm.assertEq(job.pricePerHour, PRICE);
        vm.assertEq(job.startedAt, startedAt);
        vm.assertEq(job.since, startedAt);
        vm.assertEq(market.nextDeadline(jobId).timestamp, startedAt + 2 * HOUR);
    }

    function test_the_money_a_stranger_added_comes_back_to_the_renter() public {
        bytes32 jobId = _running();
        vm.prank(stranger);
        market.extendJob(jobId, HOUR);
        vm.prank(renter);
        market.stopJob(jobId);
        _assertPaid(0.06 ether, 7.14 ether);
        vm.assertEq(_credit(stranger), 0);
    }

    function test_extend_only_before_the_end() public {
        bytes32 jobId = _running();
        uint40 endsAt = _now() + HOUR;
        vm.warp(endsAt);
        _expectPassed(jobId, endsAt);
        vm.prank(renter);
        market.extendJob(jobId, HOUR);
        vm.warp(endsAt - 1);
        vm.prank(renter);
        market.extendJob(jobId, HOUR);
    }

    function test_a_dead_hosts_job_cannot_be_extended() public {
        bytes32 jobId = _running();
        uint40 deadAt = _now();
        _pass(10);
        vm.prank(address(committee));
        market.recordDeath(jobId, deadAt);
        _expectPassed(jobId, deadAt);
        vm.prank(renter);
        market.extendJob(jobId, HOUR);
    }

    function test_extend_by_at_least_a_second_and_to_at_most_32_bits() public {
        bytes32 jobId = _running();
        uint40 room = type(uint32).max - HOUR;
        uint40[2] memory bad = [uint40(0), room + 1];
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMarketplace.DurationOutOfRange.selector, bad[i], uint40(1), room));
            vm.prank(renter);
            market.extendJob(jobId, bad[i]);
        }
    }

    // ------------------------------------------------------------------ settle

    function test_settle_a_running_job_default_behavior() public {
        bytes32 jobId = _running();
        _pass(1000);
        vm.expectEmit(address(market));
        emit JobSettled(jobId, 1000, 1 ether);
        vm.prank(stranger);
        market.settleJob(jobId);
        _assertPaid(1 ether, 0);
        vm.assertEq(_locked(jobId), 2.6 ether);
        _assertStatus(jobId, IMarketplace.JobStatus.Running);
        vm.assertEq(market.getJob(jobId).settledSeconds, 1000);
    }

    function test_settling_twice_in_a_block_pays_once() public {
        bytes32 jobId = _running();
        _pass(1000);
        market.settleJob(jobId);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.NothingToSettle.selector, jobId));
        market.settleJob(jobId);
    }

    function test_settling_a_running_job_pays_no_minimum() public {
        bytes32 jobId = _running();
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.NothingToSettle.selector, jobId));
        market.settleJob(jobId);
    }

    function test_settling_after_the_paid_time_pays_the_paid_time() public {
        bytes32 jobId = _running();
        _pass(HOUR * 3);
        market.settleJob(jobId);
        _assertPaid(3.6 ether, 0);
        market.endJob(jobId);
        _pass(DISPUTE);
        market.settleJob(jobId);
        _assertPaid(3.6 ether, 0);
    }

    function test_settle_a_completed_job_only_after_the_dispute_window() public {
        bytes32 jobId = _completedAfter(1000);
        uint40 deadline = _now() + DISPUTE;
        vm.warp(deadline - 1);
        _expectNotReached(jobId, deadline);
        market.settleJob(jobId);
        vm.warp(deadline);
        vm.expectEmit(address(market));
        emit JobSettled(jobId, 1000, 1 ether);
        vm.prank(stranger);
        market.settleJob(jobId);
        _assertPaid(1 ether, 2.6 ether);
        vm.assertEq(reputation.scores(provider).successfulJobs, 1);
    }

    function test_a_paid_job_has_nothing_to_settle() public {
        bytes32 jobId = _completedAfter(1000);
        _pass(DISPUTE);
        market.settleJob(jobId);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.NothingToSettle.selector, jobId));
        market.settleJob(jobId);
        vm.assertEq(reputation.scores(provider).totalJobs, 1);
    }

    function testFuzz_the_order_of_settlements_changes_nothing(uint128 price, uint16[8] calldata steps) public {
        price = uint128(1 + price % 1000 ether);
        vm.prank(provider);
        registry.updatePricing(resourceId, price);
        bytes32 jobId;
        vm.prank(renter);
        jobId = market.createJob(resourceId, IMAGE, 30 days);
        vm.startPrank(provider);
        market.acceptJob(jobId);
        market.startJob(jobId);
        vm.stopPrank();
        uint256 run;
        for (uint256 i = 0; i < 8; ++i) {
            _pass(steps[i]);
            run += steps[i];
            try market.settleJob(jobId) {} catch {}
        }
        uint256 gross = _credit(provider) + escrow.feesOf(address(token));
        vm.assertEq(gross, uint256(price) * run / 3600);
    }
}
