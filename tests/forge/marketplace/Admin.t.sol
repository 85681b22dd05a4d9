// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts/proxy/utils/UUPSUpgradeable.sol";
import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract AdminTest is MarketTest {
    event FeeUpdated(uint16 feeBps);

    function _expectRole(bytes32 role) private {
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, role)
        );
    }

    function test_the_fee_is_for_jobs_opened_from_now_on() public {
        bytes32 jobId = _created();
        vm.expectEmit(address(market));
        emit FeeUpdated(500);
        market.setFee(500);
        vm.assertEq(market.feeBps(), 500);
        vm.assertEq(escrow.escrows(jobId).feeBps, FEE_BPS);
    }

    function test_the_fee_has_a_cap() public {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.FeeTooHigh.selector, 501, 500));
        market.setFee(501);
    }

    function test_only_the_admin() public {
        vm.startPrank(stranger);
        _expectRole(bytes32(0));
        market.setFee(1);
        _expectRole(keccak256("PAUSER_ROLE"));
        market.pause();
        _expectRole(keccak256("PAUSER_ROLE"));
        market.unpause();
        vm.stopPrank();
    }

    function test_upgrades_are_the_admins() public {
        address[4] memory proxies = [address(market), address(registry), address(reputation), address(committee)];
        for (uint256 i = 0; i < 4; ++i) {
            _expectRole(bytes32(0));
            vm.prank(stranger);
            UUPSUpgradeable(proxies[i]).upgradeToAndCall(address(this), "");
        }
    }

    function test_an_upgrade_keeps_the_jobs() public {
        bytes32 jobId = _running();
        IMarketplace.Job memory before = market.getJob(jobId);
        address next = _create(
            "Marketplace", abi.encode(escrow, registry, vault, reputation, committee, ACCEPT, START, uint32(7), VERDICT)
        );
        UUPSUpgradeable(address(market)).upgradeToAndCall(next, "");
        vm.assertEq(market.windows().dispute, 7);
        vm.assertEq(keccak256(abi.encode(market.getJob(jobId))), keccak256(abi.encode(before)));
        vm.prank(renter);
        market.stopJob(jobId);
    }

    function test_nobody_initializes_twice() public {
        vm.expectRevert(Initializable.InvalidInitialization.selector);
        (bool done,) = address(market).call(abi.encodeWithSignature("initialize(address,uint16)", stranger, 1));
        assert(done);
    }

    function test_windows_are_readable() public view {
        IMarketplace.Windows memory windows = market.windows();
        vm.assertEq(windows.accept, ACCEPT);
        vm.assertEq(windows.start, START);
        vm.assertEq(windows.dispute, DISPUTE);
        vm.assertEq(windows.verdict, VERDICT);
    }

    function test_deadlines_name_the_call_that_is_due() public {
        uint40 now_ = _now();
        bytes32 jobId = _created();
        _assertDeadline(jobId, market.expireJob.selector, now_ + ACCEPT);
        vm.prank(provider);
        market.acceptJob(jobId);
        _assertDeadline(jobId, market.expireJob.selector, now_ + START);
        vm.prank(provider);
        market.startJob(jobId);
        _assertDeadline(jobId, market.endJob.selector, now_ + HOUR);
        vm.prank(provider);
        market.completeJob(jobId);
        _assertDeadline(jobId, market.settleJob.selector, now_ + DISPUTE);
        vm.prank(renter);
        market.disputeJob(jobId, "");
        _assertDeadline(jobId, market.resolveByTimeout.selector, now_ + VERDICT);
    }

    function _assertDeadline(bytes32 jobId, bytes4 selector, uint40 timestamp) private view {
        IMarketplace.Deadline memory due = market.nextDeadline(jobId);
        vm.assertEq(due.selector, bytes32(selector));
        vm.assertEq(due.timestamp, timestamp);
    }
}
