// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IPaymentEscrow} from "../../contracts/interfaces/IPaymentEscrow.sol";
import {MarketTest} from "./support/MarketTest.sol";

contract PaymentEscrowTest is MarketTest {
    bytes32 private constant JOB = keccak256("job");

    event Deposited(address indexed account, address indexed token, uint256 amount);
    event Withdrawn(address indexed account, address indexed token, address to, uint256 amount);
    event FundsLocked(bytes32 indexed jobId, address indexed payer, address token, uint96 amount);
    event FundsReleased(bytes32 indexed jobId, address indexed provider, uint96 amount, uint96 fee);
    event Refunded(bytes32 indexed jobId, address indexed user, uint96 amount);
    event FeesWithdrawn(address indexed token, address indexed to, uint256 amount);
    event TokenAllowed(address indexed token, uint16 index);
    event TokenRemoved(address indexed token);

    function _lock(uint96 amount) private {
        vm.prank(address(market));
        escrow.lockFunds(JOB, address(token), amount, renter, provider, FEE_BPS, 0);
    }

    // ---------------------------------------------------------------- accounts

    function test_deposit_and_withdraw_default_behavior() public {
        vm.expectEmit(address(escrow));
        emit Deposited(renter, address(token), 5 ether);
        vm.startPrank(renter);
        escrow.deposit(address(token), 5 ether);
        vm.assertEq(_credit(renter), 5 ether);
        vm.expectEmit(address(escrow));
        emit Withdrawn(renter, address(token), stranger, 2 ether);
        uint256 before = token.balanceOf(stranger);
        escrow.withdraw(address(token), 2 ether, stranger);
        vm.stopPrank();
        vm.assertEq(_credit(renter), 3 ether);
        vm.assertEq(token.balanceOf(stranger), before + 2 ether);
    }

    function test_deposit_reverts() public {
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.TokenNotAllowed.selector, address(7)));
        escrow.deposit(address(7), 1);
        vm.expectRevert(IPaymentEscrow.AmountZero.selector);
        escrow.deposit(address(token), 0);
    }

    function test_withdraw_reverts() public {
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.TokenNotAllowed.selector, address(7)));
        escrow.withdraw(address(7), 1, renter);
        vm.expectRevert(IPaymentEscrow.AmountZero.selector);
        escrow.withdraw(address(token), 0, renter);
        vm.expectRevert(IPaymentEscrow.RecipientZero.selector);
        escrow.withdraw(address(token), 1, address(0));
        vm.expectRevert(
            abi.encodeWithSelector(IPaymentEscrow.BalanceInsufficient.selector, renter, address(token), 0, 1)
        );
        vm.prank(renter);
        escrow.withdraw(address(token), 1, renter);
    }

    // -------------------------------------------------------------- the market

    function test_lock_default_behavior() public {
        vm.expectEmit(address(escrow));
        emit FundsLocked(JOB, renter, address(token), 10 ether);
        _lock(10 ether);
        IPaymentEscrow.EscrowRecord memory record = escrow.escrows(JOB);
        vm.assertEq(record.jobId, JOB);
        vm.assertEq(record.user, renter);
        vm.assertEq(record.provider, provider);
        vm.assertEq(record.token, address(token));
        vm.assertEq(record.lockedAmount, 10 ether);
        vm.assertEq(record.feeBps, FEE_BPS);
        vm.assertFalse(record.completed);
        vm.assertEq(escrow.providerOf(JOB), provider);
        (address user, uint96 locked) = escrow.lockOf(JOB);
        vm.assertEq(user, renter);
        vm.assertEq(locked, 10 ether);
    }

    function test_lock_reverts() public {
        vm.startPrank(address(market));
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.TokenNotAllowed.selector, address(7)));
        escrow.lockFunds(JOB, address(7), 1, renter, provider, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.FeeAboveCap.selector, 501, 500));
        escrow.lockFunds(JOB, address(token), 1, renter, provider, 501, 0);
        escrow.lockFunds(JOB, address(token), 1, renter, provider, 500, 0);
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.EscrowExists.selector, JOB));
        escrow.lockFunds(JOB, address(token), 1, renter, provider, 0, 0);
        vm.stopPrank();
    }

    function test_release_default_behavior() public {
        _lock(10 ether);
        vm.expectEmit(address(escrow));
        emit FundsReleased(JOB, provider, 3.92 ether, 0.08 ether);
        vm.expectEmit(address(escrow));
        emit Refunded(JOB, renter, 6 ether);
        vm.prank(address(market));
        escrow.releaseFunds(JOB, 4 ether);
        _assertPaid(4 ether, 6 ether);
        vm.assertTrue(escrow.escrows(JOB).completed);
    }

    function test_partial_release_and_refund() public {
        _lock(10 ether);
        vm.startPrank(address(market));
        escrow.partialRelease(JOB, 4 ether);
        escrow.refund(JOB, 1 ether);
        vm.assertEq(escrow.escrows(JOB).lockedAmount, 5 ether);
        escrow.releaseFunds(JOB, 5 ether);
        vm.stopPrank();
        _assertPaid(9 ether, 1 ether);
    }

    function test_nothing_beyond_the_lock_leaves() public {
        _lock(10);
        bytes memory expected = abi.encodeWithSelector(IPaymentEscrow.EscrowInsufficient.selector, JOB, 10, 11);
        vm.startPrank(address(market));
        vm.expectRevert(expected);
        escrow.releaseFunds(JOB, 11);
        vm.expectRevert(expected);
        escrow.partialRelease(JOB, 11);
        vm.expectRevert(expected);
        escrow.refund(JOB, 11);
        vm.stopPrank();
    }

    function test_a_job_unknown_here_moves_nothing() public {
        bytes memory expected = abi.encodeWithSelector(IPaymentEscrow.EscrowMissing.selector, JOB);
        vm.startPrank(address(market));
        vm.expectRevert(expected);
        escrow.addFunds(JOB, 1, renter);
        vm.expectRevert(expected);
        escrow.releaseFunds(JOB, 0);
        vm.expectRevert(expected);
        escrow.partialRelease(JOB, 0);
        vm.expectRevert(expected);
        escrow.refund(JOB, 0);
        vm.stopPrank();
        vm.assertFalse(escrow.escrows(JOB).completed);
    }

    function test_add_default_behavior() public {
        _lock(10 ether);
        vm.expectEmit(address(escrow));
        emit FundsLocked(JOB, stranger, address(token), 5 ether);
        vm.prank(address(market));
        escrow.addFunds(JOB, 5 ether, stranger);
        vm.assertEq(escrow.escrows(JOB).lockedAmount, 15 ether);
        vm.assertEq(escrow.escrows(JOB).user, renter);
    }

    function test_add_beyond_96_bits_reverts() public {
        _lock(10);
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.AmountTooLarge.selector, uint256(type(uint96).max) + 10));
        vm.prank(address(market));
        escrow.addFunds(JOB, type(uint96).max, stranger);
    }

    function test_only_the_market_moves_a_lock() public {
        bytes memory expected = abi.encodeWithSelector(IPaymentEscrow.CallerNotMarketplace.selector, admin);
        vm.expectRevert(expected);
        escrow.lockFunds(JOB, address(token), 1, renter, provider, 0, 0);
        vm.expectRevert(expected);
        escrow.addFunds(JOB, 1, renter);
        vm.expectRevert(expected);
        escrow.releaseFunds(JOB, 1);
        vm.expectRevert(expected);
        escrow.partialRelease(JOB, 1);
        vm.expectRevert(expected);
        escrow.refund(JOB, 1);
    }

    // ------------------------------------------------------------------- admin

    function test_fees_go_where_the_admin_says() public {
        _lock(10 ether);
        vm.prank(address(market));
        escrow.releaseFunds(JOB, 10 ether);
        uint256 before = token.balanceOf(stranger);
        vm.expectEmit(address(escrow));
        emit FeesWithdrawn(address(token), stranger, 0.2 ether);
        escrow.withdrawFees(address(token), stranger);
        vm.assertEq(token.balanceOf(stranger), before + 0.2 ether);
        vm.assertEq(escrow.feesOf(address(token)), 0);
    }

    function test_withdraw_fees_reverts() public {
        vm.expectRevert(IPaymentEscrow.AmountZero.selector);
        escrow.withdrawFees(address(token), stranger);
        vm.expectRevert(IPaymentEscrow.RecipientZero.selector);
        escrow.withdrawFees(address(token), address(0));
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.TokenNotAllowed.selector, address(7)));
        escrow.withdrawFees(address(7), stranger);
    }

    function test_a_removed_token_stays_payable() public {
        bytes32 jobId = _running();
        vm.prank(renter);
        escrow.deposit(address(token), 1 ether);
        vm.expectEmit(address(escrow));
        emit TokenRemoved(address(token));
        escrow.removeToken(address(token));
        vm.assertFalse(escrow.isTokenAllowed(address(token)));

        vm.prank(renter);
        market.extendJob(jobId, 10);
        vm.prank(renter);
        market.stopJob(jobId);
        uint256 credit = _credit(renter);
        vm.prank(renter);
        escrow.withdraw(address(token), credit, renter);
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.TokenNotAllowed.selector, address(token)));
        vm.prank(renter);
        market.createJob(resourceId, IMAGE, HOUR);
    }

    function test_a_token_keeps_its_index() public {
        escrow.allowToken(address(7));
        escrow.removeToken(address(token));
        vm.expectEmit(address(escrow));
        emit TokenAllowed(address(token), 0);
        escrow.allowToken(address(token));
        vm.assertEq(escrow.tokens().length, 2);
        vm.assertEq(escrow.tokens()[1], address(7));
        vm.expectRevert(abi.encodeWithSelector(IPaymentEscrow.TokenNotAllowed.selector, address(8)));
        escrow.removeToken(address(8));
    }

    function test_the_list_of_tokens_is_bounded() public {
        for (uint160 i = 1; i < 64; ++i) {
            escrow.allowToken(address(i));
        }
        vm.expectRevert(IPaymentEscrow.TooManyTokens.selector);
        escrow.allowToken(address(1000));
    }

    function test_only_the_admin() public {
        bytes memory expected =
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, bytes32(0));
        vm.startPrank(stranger);
        vm.expectRevert(expected);
        escrow.allowToken(address(7));
        vm.expectRevert(expected);
        escrow.removeToken(address(token));
        vm.expectRevert(expected);
        escrow.withdrawFees(address(token), stranger);
        vm.stopPrank();
    }

    function test_unknown_tokens_have_no_balances() public view {
        vm.assertEq(escrow.balanceOf(address(7), renter), 0);
        vm.assertEq(escrow.feesOf(address(7)), 0);
    }
}
