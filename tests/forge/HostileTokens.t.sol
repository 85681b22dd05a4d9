// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IMarketplace} from "../../contracts/interfaces/IMarketplace.sol";
import {IPaymentEscrow} from "../../contracts/interfaces/IPaymentEscrow.sol";
import {IResourceRegistry} from "../../contracts/interfaces/IResourceRegistry.sol";
import {MarketTest} from "./support/MarketTest.sol";

interface IHostileToken {
    function mint(address to, uint256 amount) external;
    function approve(address spender, uint256 amount) external returns (bool);
    function setFee(uint256 bps) external;
    function setReturnsFalse(bool value) external;
    function setBlocked(address account, bool value) external;
    function setCall(address target, bytes calldata data) external;
    function callSucceeded() external view returns (bool);
    function callResult() external view returns (bytes memory);
}

/// @notice The payment token misbehaves; only whoever is hit by it suffers.
contract HostileTokensTest is MarketTest {
    IHostileToken private hostile;

    function setUp() public override {
        super.setUp();
        hostile = IHostileToken(_create("HostileToken", ""));
        escrow.allowToken(address(hostile));
        hostile.mint(renter, 100 ether);
        vm.prank(renter);
        hostile.approve(address(escrow), type(uint256).max);
        vm.startPrank(provider);
        vault.stake(STAKE);
        resourceId = registry.registerResource(
            IResourceRegistry.ResourceParams("CPU-only", 0, 4, 8, 10, PRICE, address(hostile), 60, 30 days, RESULT)
        );
        vm.stopPrank();
    }

    function _rent() private returns (bytes32) {
        vm.prank(renter);
        return market.createJob(resourceId, IMAGE, HOUR);
    }

    function _start() private returns (bytes32 jobId) {
        jobId = _rent();
        vm.startPrank(provider);
        market.acceptJob(jobId);
        market.startJob(jobId);
        vm.stopPrank();
    }

    function test_a_fee_on_transfer_is_refused() public {
        hostile.setFee(100);
        vm.expectRevert(
            abi.encodeWithSelector(
                IPaymentEscrow.TokenAmountMismatch.selector, address(hostile), 3.6 ether, 3.564 ether
            )
        );
        _rent();
    }

    function test_returning_false_is_refused() public {
        hostile.setReturnsFalse(true);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(hostile)));
        _rent();
    }

    /// @dev Invariant 3: the exits of one side need nothing from the other.
    function test_a_blocked_provider_does_not_hold_up_the_renter() public {
        bytes32 jobId = _start();
        hostile.setBlocked(provider, true);
        _pass(1000);
        vm.prank(renter);
        market.stopJob(jobId);
        vm.prank(renter);
        escrow.withdraw(address(hostile), 2.6 ether, renter);
        // The provider takes its share out to another address.
        vm.prank(provider);
        escrow.withdraw(address(hostile), 0.98 ether, stranger);
    }

    function test_a_blocked_renter_does_not_hold_up_the_provider() public {
        bytes32 jobId = _start();
        hostile.setBlocked(renter, true);
        _pass(1000);
        vm.prank(provider);
        market.completeJob(jobId);
        _pass(DISPUTE);
        market.settleJob(jobId);
        vm.prank(provider);
        escrow.withdraw(address(hostile), 0.98 ether, provider);
        vm.assertEq(escrow.balanceOf(address(hostile), renter), 2.6 ether);
    }

    function test_no_second_deposit_inside_a_transfer() public {
        hostile.setCall(address(escrow), abi.encodeCall(escrow.deposit, (address(hostile), 1)));
        vm.prank(renter);
        escrow.deposit(address(hostile), 1 ether);
        vm.assertFalse(hostile.callSucceeded());
        vm.assertEq(
            bytes32(hostile.callResult()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
    }

    function test_no_withdrawal_inside_a_transfer() public {
        hostile.mint(address(hostile), 1 ether);
        vm.prank(address(hostile));
        hostile.approve(address(escrow), 1 ether);
        vm.prank(address(hostile));
        escrow.deposit(address(hostile), 1 ether);
        hostile.setCall(address(escrow), abi.encodeCall(escrow.withdraw, (address(hostile), 1 ether, address(hostile))));
        _rent();
        vm.assertEq(escrow.balanceOf(address(hostile), address(hostile)), 1 ether);
        vm.assertFalse(hostile.callSucceeded());
        vm.assertEq(
            bytes32(hostile.callResult()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
    }

    function test_no_second_job_inside_a_transfer() public {
        hostile.setCall(
            address(market), abi.encodeWithSignature("createJob(bytes32,bytes32,uint256)", resourceId, IMAGE, HOUR)
        );
        bytes32 jobId = _rent();
        vm.assertFalse(hostile.callSucceeded());
        vm.assertEq(
            bytes32(hostile.callResult()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
        vm.assertEq(market.activeJobOf(resourceId), jobId);
    }

    function test_a_call_from_inside_a_transfer_sees_the_job_already_written() public {
        hostile.setCall(address(market), abi.encodeCall(market.activeJobOf, (resourceId)));
        bytes32 jobId = _rent();
        vm.assertTrue(hostile.callSucceeded());
        vm.assertEq(abi.decode(hostile.callResult(), (bytes32)), jobId);
    }

    function test_a_renewal_reenters_nothing() public {
        bytes32 jobId = _start();
        vm.prank(renter);
        market.setAutoRenew(jobId, HOUR, _now() + 9 * HOUR, PRICE);
        hostile.setCall(address(market), abi.encodeCall(market.renewJob, (jobId)));
        _pass(HOUR - 60);
        market.renewJob(jobId);
        vm.assertFalse(hostile.callSucceeded());
        vm.assertEq(
            bytes32(hostile.callResult()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
        vm.assertEq(market.getJob(jobId).duration, 2 * HOUR);
    }

    function test_a_bond_reenters_nothing() public {
        market.setDisputeBond(1000);
        bytes32 jobId = _start();
        _pass(HOUR); // nothing to refund: the bond comes from the wallet
        hostile.setCall(address(market), abi.encodeCall(market.disputeJob, (jobId, "")));
        vm.prank(renter);
        market.disputeJob(jobId, "");
        vm.assertFalse(hostile.callSucceeded());
        vm.assertEq(
            bytes32(hostile.callResult()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
    }

    function test_a_batch_needs_nothing_from_the_token() public {
        bytes32[] memory jobs = new bytes32[](1);
        jobs[0] = _start();
        hostile.setReturnsFalse(true);
        _pass(100);
        vm.assertEq(market.settleBatch(jobs), 1);
        _pass(HOUR);
        vm.assertEq(market.expireBatch(jobs), 1);
        _pass(DISPUTE);
        vm.assertEq(market.expireBatch(jobs), 1);
        vm.assertEq(market.getJob(jobs[0]).lockedAmount, 0);
    }

    function test_a_token_without_permit_rents_by_allowance() public {
        IMarketplace.JobRequest memory request =
            IMarketplace.JobRequest(resourceId, IMAGE, HOUR, PRICE, address(hostile), "");
        vm.prank(renter);
        bytes32 jobId = market.createJobWithPermit(request, IMarketplace.Permit(0, 0, 0, 0, 0));
        vm.assertEq(market.getJob(jobId).paymentToken, address(hostile));
    }
}
