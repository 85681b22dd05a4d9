// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract BatchesTest is MarketTest {
    bytes32 private second;

    function setUp() public override {
        super.setUp();
        vm.startPrank(provider);
        vault.stake(STAKE);
        second = registry.registerResource("NVIDIA A100", 16, 128, 64, PRICE);
        vm.stopPrank();
    }

    function _pair() private returns (bytes32[] memory jobs) {
        jobs = new bytes32[](2);
        jobs[0] = _running();
        vm.prank(renter);
        jobs[1] = market.createJob(second, IMAGE, HOUR);
        vm.prank(provider);
        market.acceptAndStartJob(jobs[1]);
    }

    // ---------------------------------------------------------- acceptAndStart

    function test_accept_and_start_is_both() public {
        bytes32 jobId = _created();
        _expectUnauthorized(jobId, stranger);
        vm.prank(stranger);
        market.acceptAndStartJob(jobId);
        vm.prank(provider);
        market.acceptAndStartJob(jobId);
        _assertStatus(jobId, IMarketplace.JobStatus.Running);
        vm.assertEq(market.getJob(jobId).startedAt, _now());
        _expectStatusInvalid(jobId, IMarketplace.JobStatus.Running);
        vm.prank(provider);
        market.acceptAndStartJob(jobId);
    }

    function test_accept_and_start_only_before_the_deadline() public {
        bytes32 jobId = _created();
        uint40 deadline = _now() + ACCEPT;
        vm.warp(deadline);
        _expectPassed(jobId, deadline);
        vm.prank(provider);
        market.acceptAndStartJob(jobId);
    }

    function test_accept_and_start_needs_the_stake() public {
        bytes32 jobId = _created();
        vm.startPrank(provider);
        vault.requestUnstake(STAKE + 1);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ProviderStakeTooLow.selector, provider, STAKE - 1, STAKE));
        market.acceptAndStartJob(jobId);
        vm.stopPrank();
    }

    // ------------------------------------------------------------- settleBatch

    function test_settle_batch_pays_each_as_settle_does() public {
        bytes32[] memory jobs = _pair();
        _pass(1000);
        vm.prank(stranger);
        vm.assertEq(market.settleBatch(jobs), 2);
        vm.assertEq(market.getJob(jobs[0]).settledSeconds, 1000);
        vm.assertEq(market.getJob(jobs[1]).settledSeconds, 1000);
        vm.assertEq(_credit(provider) + escrow.feesOf(address(token)), 2 ether);
        vm.assertEq(escrow.feesOf(address(token)), 0.04 ether);
    }

    function test_settle_batch_passes_over_what_has_nothing() public {
        bytes32[] memory jobs = new bytes32[](5);
        bytes32[] memory pair = _pair();
        (jobs[0], jobs[1]) = (pair[0], pair[0]);
        jobs[2] = keccak256("nobody's job");
        vm.prank(renter);
        market.stopJob(pair[1]);
        jobs[3] = pair[1]; // paid
        vm.prank(renter);
        jobs[4] = market.createJob(second, IMAGE, HOUR); // not started
        _pass(50);
        vm.assertEq(market.settleBatch(jobs), 1);
        vm.assertEq(market.getJob(jobs[0]).settledSeconds, 50);
    }

    function test_settle_batch_waits_for_the_dispute_window() public {
        bytes32[] memory jobs = new bytes32[](1);
        jobs[0] = _completedAfter(100);
        vm.warp(_now() + DISPUTE - 1);
        vm.assertEq(market.settleBatch(jobs), 0);
        vm.warp(_now() + 1);
        vm.assertEq(market.settleBatch(jobs), 1);
        _assertPaid(0.1 ether, 3.5 ether);
        vm.assertEq(market.settleBatch(jobs), 0);
    }

    // ------------------------------------------------------------- expireBatch

    function test_expire_batch_makes_every_due_call() public {
        for (uint8 i = 1; i < 8; ++i) {
            uint256 state = vm.snapshotState();
            bytes32[] memory jobs = new bytes32[](1);
            jobs[0] = _jobIn(IMarketplace.JobStatus(i));
            for (uint256 step = 0; step < 3; ++step) {
                IMarketplace.Deadline memory due = market.nextDeadline(jobs[0]);
                if (due.selector == bytes4(0)) break;
                vm.warp(due.timestamp - 1);
                vm.assertEq(market.expireBatch(jobs), 0);
                vm.warp(due.timestamp);
                vm.prank(stranger);
                vm.assertEq(market.expireBatch(jobs), 1);
            }
            vm.assertEq(_locked(jobs[0]), 0);
            vm.assertEq(market.expireBatch(jobs), 0);
            vm.revertToState(state);
        }
    }

    function test_the_code_of_rare_calls_holds_nothing_of_the_market() public {
        bytes32 jobId = _disputedAfter(10);
        bytes32 slot = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc; // ERC-1967
        address implementation = address(uint160(uint256(vm.load(address(market), slot))));
        address code = vm.computeCreateAddress(implementation, 1);
        vm.assertTrue(code.code.length > 0);
        _expectStatusInvalid(jobId, IMarketplace.JobStatus.None);
        vm.prank(address(committee));
        IMarketplace(code).resolveDispute(jobId, IMarketplace.Verdict.UserFault);
    }
}
