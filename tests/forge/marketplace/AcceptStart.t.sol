// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract AcceptStartTest is MarketTest {
    event JobAccepted(bytes32 indexed jobId, address indexed provider);
    event JobStarted(bytes32 indexed jobId, uint40 startTime);

    function test_accept_default_behavior() public {
        bytes32 jobId = _created();
        _pass(5);
        vm.expectEmit(address(market));
        emit JobAccepted(jobId, provider);
        vm.prank(provider);
        market.acceptJob(jobId);
        _assertStatus(jobId, IMarketplace.JobStatus.Accepted);
        vm.assertEq(market.getJob(jobId).since, _now());
        vm.assertEq(market.getJob(jobId).startedAt, 0);
    }

    function test_start_default_behavior() public {
        bytes32 jobId = _accepted();
        _pass(5);
        vm.expectEmit(address(market));
        emit JobStarted(jobId, _now());
        vm.prank(provider);
        market.startJob(jobId);
        _assertStatus(jobId, IMarketplace.JobStatus.Running);
        vm.assertEq(market.getJob(jobId).startedAt, _now());
    }

    function test_accept_only_before_its_deadline() public {
        bytes32 jobId = _created();
        uint40 deadline = _now() + ACCEPT;
        vm.warp(deadline);
        _expectPassed(jobId, deadline);
        vm.prank(provider);
        market.acceptJob(jobId);
        vm.warp(deadline - 1);
        vm.prank(provider);
        market.acceptJob(jobId);
    }

    function test_start_only_before_its_deadline() public {
        bytes32 jobId = _accepted();
        uint40 deadline = _now() + START;
        vm.warp(deadline);
        _expectPassed(jobId, deadline);
        vm.prank(provider);
        market.startJob(jobId);
        vm.warp(deadline - 1);
        vm.prank(provider);
        market.startJob(jobId);
    }

    function test_accept_and_start_are_the_providers() public {
        bytes32 jobId = _created();
        _expectUnauthorized(jobId, renter);
        vm.prank(renter);
        market.acceptJob(jobId);
        vm.prank(provider);
        market.acceptJob(jobId);
        _expectUnauthorized(jobId, stranger);
        vm.prank(stranger);
        market.startJob(jobId);
    }

    function test_accept_needs_the_stake_still_there() public {
        bytes32 jobId = _created();
        vm.prank(provider);
        vault.requestUnstake(1);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ProviderStakeTooLow.selector, provider, STAKE - 1, STAKE));
        vm.prank(provider);
        market.acceptJob(jobId);
    }

    function test_the_first_machine_stays_rentable_with_stake_for_one() public {
        vm.startPrank(provider);
        vault.stake(STAKE);
        bytes32 second = registry.registerResource("NVIDIA H200", 16, 128, 64, PRICE);
        vault.requestUnstake(STAKE);
        vm.stopPrank();
        _accepted();
        vm.prank(renter);
        bytes32 jobId = market.createJob(second, IMAGE, HOUR);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ProviderStakeTooLow.selector, provider, STAKE, 2 * STAKE));
        vm.prank(provider);
        market.acceptJob(jobId);
    }

    function test_pausing_does_not_stop_them() public {
        bytes32 jobId = _created();
        market.pause();
        vm.startPrank(provider);
        market.acceptJob(jobId);
        market.startJob(jobId);
        vm.stopPrank();
    }
}
