// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {IPaymentEscrow} from "../../../contracts/interfaces/IPaymentEscrow.sol";
import {IResourceRegistry} from "../../../contracts/interfaces/IResourceRegistry.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract CreateJobTest is MarketTest {
    event JobCreated(
        bytes32 indexed jobId,
        address indexed user,
        bytes32 indexed resourceId,
        bytes32 imageCid,
        uint128 pricePerHour,
        uint40 duration,
        uint96 maxCost,
        bytes spec
    );

    function test_default_behavior() public {
        IMarketplace.JobRequest memory request = _request();
        request.spec = "{}";
        bytes32 expected =
            market.computeJobId(bytes32(0), renter, resourceId, IMAGE, HOUR, PRICE, keccak256(request.spec));
        vm.expectEmit(address(market));
        emit JobCreated(expected, renter, resourceId, IMAGE, PRICE, HOUR, 3.6 ether, "{}");
        vm.prank(renter);
        bytes32 jobId = market.createJob(request);

        vm.assertEq(jobId, expected);
        IMarketplace.Job memory job = market.getJob(jobId);
        vm.assertEq(job.user, renter);
        vm.assertEq(job.provider, provider);
        vm.assertEq(job.resourceId, resourceId);
        vm.assertEq(job.paymentToken, address(token));
        vm.assertEq(job.since, _now());
        vm.assertEq(job.duration, HOUR);
        vm.assertEq(job.minSeconds, MIN);
        vm.assertEq(job.pricePerHour, PRICE);
        vm.assertEq(job.lockedAmount, 3.6 ether);
        _assertStatus(jobId, IMarketplace.JobStatus.Created);
        vm.assertEq(market.activeJobOf(resourceId), jobId);
    }

    function test_the_short_form_takes_the_asking_price() public {
        vm.prank(renter);
        bytes32 jobId = market.createJob(resourceId, IMAGE, HOUR);
        vm.assertEq(market.getJob(jobId).pricePerHour, PRICE);
        vm.assertEq(jobId, market.computeJobId(bytes32(0), renter, resourceId, IMAGE, HOUR, PRICE, keccak256("")));
    }

    function test_the_short_form_refuses_a_duration_beyond_40_bits() public {
        vm.expectRevert(
            abi.encodeWithSelector(
                IMarketplace.DurationOutOfRange.selector, type(uint40).max, uint40(60), uint40(30 days)
            )
        );
        vm.prank(renter);
        market.createJob(resourceId, IMAGE, uint256(type(uint40).max) + 3601);
    }

    function test_the_escrow_is_the_only_spender() public {
        uint256 before = token.balanceOf(renter);
        _created();
        vm.assertEq(token.balanceOf(renter), before - 3.6 ether);
        vm.assertEq(token.balanceOf(address(escrow)), 3.6 ether);
        vm.assertEq(token.allowance(renter, address(market)), 0);
    }

    function test_draws_the_internal_balance_first() public {
        vm.prank(renter);
        escrow.deposit(address(token), 3 ether);
        uint256 wallet = token.balanceOf(renter);
        _created();
        vm.assertEq(_credit(renter), 0);
        vm.assertEq(token.balanceOf(renter), wallet - 0.6 ether);
    }

    function test_needs_no_allowance_when_the_internal_balance_is_enough() public {
        vm.startPrank(renter);
        escrow.deposit(address(token), 10 ether);
        token.approve(address(escrow), 0);
        vm.stopPrank();
        _created();
        vm.assertEq(_credit(renter), 6.4 ether);
    }

    function test_ids_chain_on_the_previous_job_of_the_resource() public {
        bytes32 first = _cancelled();
        bytes32 second = _created();
        vm.assertTrue(first != second);
        vm.assertEq(second, market.computeJobId(first, renter, resourceId, IMAGE, HOUR, PRICE, keccak256("")));
    }

    function test_a_later_price_touches_no_job() public {
        bytes32 jobId = _created();
        vm.prank(provider);
        registry.updatePricing(resourceId, PRICE * 2);
        vm.assertEq(market.getJob(jobId).pricePerHour, PRICE);
    }

    function test_reverts_when_busy() public {
        bytes32 jobId = _created();
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ResourceBusy.selector, resourceId, jobId));
        vm.prank(stranger);
        market.createJob(resourceId, IMAGE, HOUR);
    }

    function test_reverts_when_unavailable() public {
        vm.prank(provider);
        registry.updateAvailability(resourceId, false);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ResourceUnavailable.selector, resourceId));
        _created();
    }

    function test_reverts_for_a_resource_nobody_listed() public {
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.ResourceMissing.selector, bytes32(uint256(7))));
        market.createJob(bytes32(uint256(7)), IMAGE, HOUR);
    }

    function test_reverts_above_the_renters_maximum() public {
        IMarketplace.JobRequest memory request = _request();
        request.maxPricePerHour = PRICE - 1;
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.PriceAboveMaximum.selector, PRICE, PRICE - 1));
        vm.prank(renter);
        market.createJob(request);
    }

    function test_reverts_for_another_token() public {
        IMarketplace.JobRequest memory request = _request();
        request.paymentToken = address(7);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.PaymentTokenMismatch.selector, address(token), address(7)));
        vm.prank(renter);
        market.createJob(request);
    }

    function test_duration_bounds() public {
        IMarketplace.JobRequest memory request = _request();
        uint40[2] memory bad = [uint40(59), 30 days + 1];
        for (uint256 i = 0; i < 2; ++i) {
            request.duration = bad[i];
            vm.expectRevert(
                abi.encodeWithSelector(IMarketplace.DurationOutOfRange.selector, bad[i], uint40(60), uint40(30 days))
            );
            vm.prank(renter);
            market.createJob(request);
        }
        request.duration = 30 days;
        vm.prank(renter);
        market.createJob(request);
    }

    function test_spec_size_bound() public {
        IMarketplace.JobRequest memory request = _request();
        request.spec = new bytes(4097);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.SpecTooLarge.selector, 4097, 4096));
        vm.prank(renter);
        market.createJob(request);
        request.spec = new bytes(4096);
        vm.prank(renter);
        market.createJob(request);
    }

    function test_reverts_for_an_amount_beyond_96_bits() public {
        vm.prank(provider);
        registry.updatePricing(resourceId, type(uint128).max);
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.AmountTooLarge.selector, uint256(type(uint128).max)));
        vm.prank(renter);
        market.createJob(resourceId, IMAGE, HOUR);
    }

    function test_reverts_when_paused_and_works_again_after() public {
        market.pause();
        IMarketplace.JobRequest memory request = _request();
        vm.expectRevert(Pausable.EnforcedPause.selector);
        vm.prank(renter);
        market.createJob(request);
        market.unpause();
        _created();
    }

    // ------------------------------------------------------------------ permit

    function test_permit_in_the_same_transaction() public {
        vm.prank(renter);
        token.approve(address(escrow), 0);
        IMarketplace.Permit memory permit = _permit(3.6 ether);
        IMarketplace.JobRequest memory request = _request();
        vm.prank(renter);
        bytes32 jobId = market.createJobWithPermit(request, permit);
        _assertStatus(jobId, IMarketplace.JobStatus.Created);
        vm.assertEq(token.allowance(renter, address(escrow)), 0);
    }

    function test_a_front_run_permit_does_no_harm() public {
        vm.prank(renter);
        token.approve(address(escrow), 0);
        IMarketplace.Permit memory p = _permit(3.6 ether);
        vm.prank(stranger);
        IERC20Permit(address(token)).permit(renter, address(escrow), p.value, p.deadline, p.v, p.r, p.s);
        IMarketplace.JobRequest memory request = _request();
        vm.prank(renter);
        _assertStatus(market.createJobWithPermit(request, p), IMarketplace.JobStatus.Created);
    }

    function test_a_bad_permit_without_allowance_reverts() public {
        vm.prank(renter);
        token.approve(address(escrow), 0);
        IMarketplace.Permit memory permit = _permit(3.6 ether);
        permit.r = bytes32(uint256(permit.r) ^ 1);
        IMarketplace.JobRequest memory request = _request();
        vm.expectPartialRevert(bytes4(keccak256("ERC20InsufficientAllowance(address,uint256,uint256)")));
        vm.prank(renter);
        market.createJobWithPermit(request, permit);
    }

    function _permit(uint256 value) private view returns (IMarketplace.Permit memory permit) {
        IERC20Permit target = IERC20Permit(address(token));
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                renter,
                address(escrow),
                value,
                target.nonces(renter),
                _now() + 60
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", target.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(RENTER_KEY, digest);
        return IMarketplace.Permit(value, _now() + 60, v, r, s);
    }
}
