// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {IReputationSystem} from "../../../contracts/interfaces/IReputationSystem.sol";
import {IResourceRegistry} from "../../../contracts/interfaces/IResourceRegistry.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract RenewReclaimTest is MarketTest {
    event JobCompleted(
        bytes32 indexed jobId,
        IMarketplace.EndReason reason,
        uint40 billableSeconds,
        uint96 finalCost,
        bytes32 resultCid
    );

    // ------------------------------------------------------------------- renew

    function _renewing() private returns (bytes32 jobId) {
        jobId = _running();
        vm.prank(renter);
        market.setAutoRenew(jobId, HOUR / 2, _now() + 2 * HOUR, PRICE);
    }

    function _expectNoRenewal(bytes32 jobId) private {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.RenewalNotAllowed.selector, jobId));
    }

    function test_anyone_renews_near_the_end_and_the_renter_pays() public {
        bytes32 jobId = _renewing();
        uint256 wallet = token.balanceOf(renter);
        _pass(HOUR - 10 minutes);
        vm.prank(stranger);
        market.renewJob(jobId);
        vm.assertEq(market.getJob(jobId).duration, HOUR + HOUR / 2);
        vm.assertEq(wallet - token.balanceOf(renter), 1.8 ether);
        vm.assertEq(_locked(jobId), 5.4 ether);
    }

    function test_not_before_the_last_ten_minutes() public {
        bytes32 jobId = _renewing();
        uint40 opens = _now() + HOUR - 10 minutes;
        vm.warp(opens - 1);
        _expectNotReached(jobId, opens);
        market.renewJob(jobId);
    }

    function test_not_beyond_the_renters_date() public {
        bytes32 jobId = _renewing();
        _pass(HOUR - 60);
        market.renewJob(jobId);
        _pass(HOUR / 2);
        market.renewJob(jobId);
        _pass(HOUR / 2);
        _expectNoRenewal(jobId);
        market.renewJob(jobId);
    }

    function test_not_after_the_end() public {
        bytes32 jobId = _renewing();
        uint40 endsAt = _now() + HOUR;
        vm.warp(endsAt);
        _expectPassed(jobId, endsAt);
        market.renewJob(jobId);
    }

    function test_not_without_the_renters_word() public {
        bytes32 jobId = _running();
        _expectUnauthorized(jobId, stranger);
        vm.prank(stranger);
        market.setAutoRenew(jobId, HOUR, _now() + 9 * HOUR, PRICE);
        _pass(HOUR - 60);
        _expectNoRenewal(jobId);
        market.renewJob(jobId);
    }

    function test_the_renter_takes_it_back() public {
        bytes32 jobId = _renewing();
        vm.prank(renter);
        market.setAutoRenew(jobId, 0, 0, PRICE);
        _pass(HOUR - 60);
        _expectNoRenewal(jobId);
        market.renewJob(jobId);
    }

    function test_a_ceiling_below_the_price_is_refused() public {
        bytes32 jobId = _running();
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.PriceAboveMaximum.selector, PRICE, PRICE - 1));
        vm.prank(renter);
        market.setAutoRenew(jobId, HOUR, _now() + 9 * HOUR, PRICE - 1);
    }

    function test_renewal_is_for_jobs_that_are_not_over() public {
        bytes32 jobId = _cancelled();
        _expectStatusInvalid(jobId, IMarketplace.JobStatus.Cancelled);
        vm.prank(renter);
        market.setAutoRenew(jobId, HOUR, _now() + 9 * HOUR, PRICE);
    }

    // ----------------------------------------------------------------- reclaim

    function _reclaimable() private returns (bytes32 jobId) {
        vm.prank(provider);
        registry.setReclaimNotice(resourceId, 2);
        vm.prank(renter);
        jobId = market.createJob(resourceId, IMAGE, 10 * HOUR);
        vm.prank(provider);
        market.acceptAndStartJob(jobId);
    }

    function _expectNoReclaim(bytes32 jobId) private {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ReclaimNotAllowed.selector, jobId));
    }

    function test_a_reclaimed_job_ends_with_its_notice() public {
        bytes32 jobId = _reclaimable();
        vm.assertEq(registry.reclaimNoticeOf(resourceId), 2);
        uint40 startedAt = _now();
        _pass(HOUR);
        vm.prank(provider);
        market.reclaimJob(jobId);
        vm.assertEq(market.nextDeadline(jobId).timestamp, startedAt + 3 * HOUR);
        _pass(2 * HOUR - 1);
        _expectNotReached(jobId, startedAt + 3 * HOUR);
        market.endJob(jobId);
        _pass(HOUR);
        vm.expectEmit(address(market));
        emit JobCompleted(jobId, IMarketplace.EndReason.Reclaimed, 3 * HOUR, 10.8 ether, bytes32(0));
        vm.prank(stranger);
        market.endJob(jobId);
        vm.assertEq(market.getJob(jobId).endedAt, startedAt + 3 * HOUR);
        vm.assertEq(_credit(renter), 36 ether - 10.8 ether);
    }

    function test_only_the_provider_reclaims_and_once() public {
        bytes32 jobId = _reclaimable();
        _expectUnauthorized(jobId, stranger);
        vm.prank(stranger);
        market.reclaimJob(jobId);
        vm.prank(provider);
        market.reclaimJob(jobId);
        _expectNoReclaim(jobId);
        vm.prank(provider);
        market.reclaimJob(jobId);
    }

    function test_no_reclaim_that_was_not_agreed() public {
        bytes32 jobId = _running();
        vm.prank(provider);
        registry.setReclaimNotice(resourceId, 1);
        _expectNoReclaim(jobId);
        vm.prank(provider);
        market.reclaimJob(jobId);
    }

    function test_no_reclaim_that_would_not_shorten() public {
        bytes32 jobId = _reclaimable();
        _pass(8 * HOUR);
        _expectNoReclaim(jobId);
        vm.prank(provider);
        market.reclaimJob(jobId);
    }

    function test_a_job_under_notice_sells_no_more_time() public {
        bytes32 jobId = _reclaimable();
        vm.prank(provider);
        market.reclaimJob(jobId);
        _expectPassed(jobId, _now() + 2 * HOUR);
        vm.prank(renter);
        market.extendJob(jobId, HOUR);
    }

    function test_only_the_owner_sets_the_notice() public {
        vm.expectRevert(
            abi.encodeWithSelector(IResourceRegistry.ResourceCallerUnauthorized.selector, resourceId, stranger)
        );
        vm.prank(stranger);
        registry.setReclaimNotice(resourceId, 1);
    }

    // -------------------------------------------------- a reputation that fails

    /// @dev Puts code in the reputation system's place that always reverts.
    function _break() private returns (bytes memory code) {
        code = address(reputation).code;
        vm.etch(address(reputation), hex"fe");
    }

    function test_a_broken_reputation_system_holds_no_money() public {
        for (uint8 i = 1; i < 8; ++i) {
            uint256 state = vm.snapshotState();
            bytes32 jobId = _jobIn(IMarketplace.JobStatus(i));
            _break();
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

    function test_what_was_missed_is_counted_later_and_once() public {
        bytes32 jobId = _running();
        bytes memory code = _break();
        vm.prank(renter);
        market.stopJob(jobId);
        vm.etch(address(reputation), code);
        vm.assertEq(reputation.scores(provider).totalJobs, 0);
        market.recordReputation(jobId);
        vm.assertEq(reputation.scores(provider).totalJobs, 1);
        vm.assertEq(reputation.scores(provider).successfulJobs, 1);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.NothingToRecord.selector, jobId));
        market.recordReputation(jobId);
    }

    function test_nobody_starves_the_reputation_system_of_gas() public {
        bytes32 jobId = _accepted();
        _pass(START);
        for (uint256 gas = 60_000; gas < 200_000; gas += 4000) {
            uint256 state = vm.snapshotState();
            (bool done,) = address(market).call{gas: gas}(abi.encodeCall(market.expireJob, (jobId)));
            if (done) vm.assertEq(reputation.scores(provider).totalJobs, 1);
            vm.revertToState(state);
        }
        vm.expectPartialRevert(IMarketplace.GasTooLow.selector);
        market.expireJob{gas: 120_000}(jobId);
    }
}
