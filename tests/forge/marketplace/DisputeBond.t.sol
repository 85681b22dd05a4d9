// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

/// @notice After 1000 seconds one token is contested; the bond of a tenth is 0.1.
contract DisputeBondTest is MarketTest {
    event DisputeBondUpdated(uint16 bondBps);

    function setUp() public override {
        super.setUp();
        vm.expectEmit(address(market));
        emit DisputeBondUpdated(1000);
        market.setDisputeBond(1000);
    }

    function _disputed(address initiator) private returns (bytes32 jobId) {
        jobId = _running();
        _pass(1000);
        vm.prank(initiator);
        market.disputeJob(jobId, "");
    }

    function _judge(bytes32 jobId, IMarketplace.Verdict verdict) private {
        vm.prank(address(committee));
        market.resolveDispute(jobId, verdict);
    }

    function test_the_bond_is_taken_and_the_refund_pays_it_first() public {
        uint256 wallet = token.balanceOf(renter);
        _disputed(renter);
        vm.assertEq(_credit(renter), 2.6 ether - 0.1 ether);
        vm.assertEq(wallet - token.balanceOf(renter), 3.6 ether);
    }

    function test_a_renter_who_wins_has_it_back() public {
        bytes32 jobId = _disputed(renter);
        _judge(jobId, IMarketplace.Verdict.ProviderFault);
        _assertPaid(0, 3.6 ether);
    }

    function test_a_renter_who_loses_pays_it_to_the_provider() public {
        bytes32 jobId = _disputed(renter);
        _judge(jobId, IMarketplace.Verdict.UserFault);
        vm.assertEq(_credit(provider), 0.98 ether + 0.1 ether);
        vm.assertEq(_credit(renter), 2.5 ether);
    }

    function test_a_provider_who_loses_pays_it_to_the_renter() public {
        bytes32 jobId = _disputed(provider);
        _judge(jobId, IMarketplace.Verdict.ProviderFault);
        vm.assertEq(_credit(renter), 3.7 ether);
        vm.assertEq(_credit(provider), 0);
    }

    function test_a_provider_who_wins_has_it_back() public {
        bytes32 jobId = _disputed(provider);
        _judge(jobId, IMarketplace.Verdict.UserFault);
        vm.assertEq(_credit(provider), 0.98 ether + 0.1 ether);
        vm.assertEq(_credit(renter), 2.6 ether);
    }

    function test_no_verdict_gives_it_back() public {
        bytes32 jobId = _disputed(renter);
        _pass(VERDICT);
        market.resolveByTimeout(jobId);
        _assertPaid(0.5 ether, 3.1 ether);
    }

    function test_nothing_contested_needs_no_bond() public {
        bytes32 jobId = _accepted();
        vm.prank(renter);
        market.disputeJob(jobId, "never started");
        vm.assertEq(_credit(renter), 3.6 ether);
        _judge(jobId, IMarketplace.Verdict.ProviderFault);
        vm.assertEq(_credit(renter), 3.6 ether);
    }

    /// @dev A token that left the list must not keep anybody from a dispute.
    function test_a_removed_token_needs_no_bond() public {
        bytes32 jobId = _running();
        _pass(1000);
        escrow.removeToken(address(token));
        vm.prank(renter);
        market.disputeJob(jobId, "");
        _judge(jobId, IMarketplace.Verdict.ProviderFault);
        _assertPaid(0, 3.6 ether);
    }

    function test_a_bond_changed_later_changes_no_open_dispute() public {
        bytes32 jobId = _disputed(renter);
        market.setDisputeBond(0);
        _judge(jobId, IMarketplace.Verdict.ProviderFault);
        _assertPaid(0, 3.6 ether);
    }

    function test_the_bond_is_capped_and_the_admins() public {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.FeeTooHigh.selector, 2001, 2000));
        market.setDisputeBond(2001);
        vm.assertEq(market.disputeBondBps(), 1000);
        vm.prank(stranger);
        vm.expectPartialRevert(bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)")));
        market.setDisputeBond(0);
    }
}
