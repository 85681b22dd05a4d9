// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

/// @notice Price 0.001 token a second, one hour paid: 3.6 tokens.
contract CompleteStopTest is MarketTest {
    event JobCompleted(
        bytes32 indexed jobId,
        IMarketplace.EndReason reason,
        uint40 billableSeconds,
        uint96 finalCost,
        bytes32 resultCid
    );
    event JobSettled(bytes32 indexed jobId, uint40 settledSeconds, uint96 amount);

    function test_complete_default_behavior() public {
        bytes32 jobId = _running();
        uint40 startedAt = _now();
        _pass(1000);
        vm.expectEmit(address(market));
        emit JobCompleted(jobId, IMarketplace.EndReason.ProviderCompleted, 1000, 1 ether, RESULT);
        vm.prank(provider);
        market.completeJob(jobId, RESULT);

        _assertStatus(jobId, IMarketplace.JobStatus.Completed);
        vm.assertEq(market.getJob(jobId).endedAt, startedAt + 1000);
        // The rest is back at once, the provider's share waits.
        vm.assertEq(_credit(renter), 2.6 ether);
        vm.assertEq(_credit(provider), 0);
        vm.assertEq(_locked(jobId), 1 ether);
        vm.assertEq(market.activeJobOf(resourceId), bytes32(0));
    }

    function test_the_short_form_has_no_result() public {
        bytes32 jobId = _running();
        _pass(1000);
        vm.expectEmit(address(market));
        emit JobCompleted(jobId, IMarketplace.EndReason.ProviderCompleted, 1000, 1 ether, bytes32(0));
        vm.prank(provider);
        market.completeJob(jobId);
    }

    function test_complete_after_the_paid_time_bills_the_paid_time() public {
        bytes32 jobId = _running();
        uint40 startedAt = _now();
        _pass(HOUR + 500);
        vm.prank(provider);
        market.completeJob(jobId);
        vm.assertEq(_locked(jobId), 3.6 ether);
        vm.assertEq(market.getJob(jobId).endedAt, startedAt + HOUR);
        vm.assertEq(market.getJob(jobId).since, startedAt + HOUR + 500);
    }

    function test_a_second_of_work_bills_the_minimum() public {
        bytes32 jobId = _completedAfter(1);
        vm.assertEq(_locked(jobId), 0.06 ether);
    }

    function test_only_the_provider_completes() public {
        bytes32 jobId = _running();
        _expectUnauthorized(jobId, renter);
        vm.prank(renter);
        market.completeJob(jobId);
    }

    function test_no_dispute_window_pays_at_once() public {
        _deployMarket(0);
        _fund(renter);
        _fund(provider);
        resourceId = _list(provider);
        bytes32 jobId = _completedAfter(1000);
        _assertPaid(1 ether, 2.6 ether);
        vm.assertEq(market.nextDeadline(jobId).timestamp, 0);
    }

    // ----------------------------------------------------------------- receipt

    function test_a_receipt_pays_at_once() public {
        bytes32 jobId = _running();
        _pass(1000);
        bytes memory signature = _receipt(RENTER_KEY, jobId, RESULT, 5000);
        vm.prank(provider);
        market.completeJobWithReceipt(jobId, RESULT, 5000, signature);
        _assertPaid(1 ether, 2.6 ether);
        vm.assertEq(reputation.scores(provider).successfulJobs, 1);
    }

    function test_a_receipt_bounds_the_bill() public {
        bytes32 jobId = _running();
        _pass(1000);
        bytes memory signature = _receipt(RENTER_KEY, jobId, RESULT, 400);
        vm.prank(provider);
        market.completeJobWithReceipt(jobId, RESULT, 400, signature);
        _assertPaid(0.4 ether, 3.2 ether);
    }

    function test_a_receipt_takes_nothing_back_that_was_settled() public {
        bytes32 jobId = _running();
        _pass(1000);
        market.settleJob(jobId);
        bytes memory signature = _receipt(RENTER_KEY, jobId, RESULT, 400);
        vm.prank(provider);
        market.completeJobWithReceipt(jobId, RESULT, 400, signature);
        _assertPaid(1 ether, 2.6 ether);
        vm.assertEq(market.getJob(jobId).settledSeconds, 1000);
    }

    function test_a_receipt_must_be_the_renters_and_for_these_terms() public {
        bytes32 jobId = _running();
        bytes[3] memory bad = [
            _receipt(0xBAD, jobId, RESULT, 5000),
            _receipt(RENTER_KEY, jobId, RESULT, 4999),
            _receipt(RENTER_KEY, jobId, IMAGE, 5000)
        ];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMarketplace.ReceiptSignatureInvalid.selector, jobId));
            vm.prank(provider);
            market.completeJobWithReceipt(jobId, RESULT, 5000, bad[i]);
        }
    }

    function test_only_the_provider_hands_in_a_receipt() public {
        bytes32 jobId = _running();
        bytes memory signature = _receipt(RENTER_KEY, jobId, RESULT, 5000);
        _expectUnauthorized(jobId, stranger);
        vm.prank(stranger);
        market.completeJobWithReceipt(jobId, RESULT, 5000, signature);
    }

    // -------------------------------------------------------------------- stop

    function test_stop_default_behavior() public {
        bytes32 jobId = _running();
        _pass(1000);
        vm.expectEmit(address(market));
        emit JobCompleted(jobId, IMarketplace.EndReason.RenterStopped, 1000, 1 ether, bytes32(0));
        vm.expectEmit(address(market));
        emit JobSettled(jobId, 1000, 1 ether);
        vm.prank(renter);
        market.stopJob(jobId);
        _assertStatus(jobId, IMarketplace.JobStatus.Completed);
        _assertPaid(1 ether, 2.6 ether);
        vm.assertEq(_locked(jobId), 0);
        vm.assertTrue(escrow.escrows(jobId).completed);
    }

    function test_stop_bills_the_minimum() public {
        bytes32 jobId = _running();
        vm.prank(renter);
        market.stopJob(jobId);
        _assertPaid(0.06 ether, 3.54 ether);
    }

    function test_stop_after_settling_pays_the_difference() public {
        bytes32 jobId = _running();
        _pass(1000);
        market.settleJob(jobId);
        _pass(500);
        vm.prank(renter);
        market.stopJob(jobId);
        _assertPaid(1.5 ether, 2.1 ether);
    }

    function test_only_the_renter_stops() public {
        bytes32 jobId = _running();
        _expectUnauthorized(jobId, provider);
        vm.prank(provider);
        market.stopJob(jobId);
    }

    function test_pausing_does_not_stop_stopping() public {
        bytes32 jobId = _running();
        market.pause();
        vm.prank(renter);
        market.stopJob(jobId);
        vm.prank(renter);
        escrow.withdraw(address(token), 3.54 ether, renter);
    }

    function testFuzz_a_stop_splits_exactly_what_was_locked(uint128 price, uint40 duration, uint40 time) public {
        duration = uint40(60 + duration % (30 days - 59));
        price = uint128(1 + price % 1000 ether);
        vm.prank(provider);
        registry.updatePricing(resourceId, price);
        vm.prank(renter);
        bytes32 jobId = market.createJob(resourceId, IMAGE, duration);
        uint256 locked = _locked(jobId);
        vm.startPrank(provider);
        market.acceptJob(jobId);
        market.startJob(jobId);
        vm.stopPrank();
        _pass(time % 60 days);
        vm.prank(renter);
        market.stopJob(jobId);
        vm.assertEq(_credit(provider) + _credit(renter) + escrow.feesOf(address(token)), locked);
    }

    function _receipt(uint256 key, bytes32 jobId, bytes32 resultCid, uint40 maxSeconds)
        private
        view
        returns (bytes memory)
    {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("gpumarket"),
                keccak256("1"),
                block.chainid,
                address(market)
            )
        );
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256("Receipt(bytes32 jobId,bytes32 resultCid,uint40 maxSeconds)"), jobId, resultCid, maxSeconds
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, keccak256(abi.encodePacked(hex"1901", domain, structHash)));
        return abi.encodePacked(r, s, v);
    }
}
