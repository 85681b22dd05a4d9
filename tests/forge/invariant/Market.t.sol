// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {Vm} from "../support/Vm.sol";
import {MarketHandler} from "./MarketHandler.sol";

/// @notice The invariants of docs/invariants.md under random histories.
contract MarketInvariants {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    MarketHandler private handler;

    function setUp() public {
        handler = new MarketHandler();
        handler.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory selectors = new bytes4[](18);
        selectors[0] = handler.pass.selector;
        selectors[1] = handler.create.selector;
        selectors[2] = handler.extend.selector;
        selectors[3] = handler.dispute.selector;
        selectors[4] = handler.judge.selector;
        selectors[5] = handler.outage.selector;
        selectors[6] = handler.death.selector;
        selectors[7] = handler.reprice.selector;
        selectors[8] = handler.refee.selector;
        selectors[9] = handler.bank.selector;
        selectors[10] = handler.bond.selector;
        selectors[11] = handler.slash.selector;
        selectors[12] = handler.renew.selector;
        for (uint256 i = 13; i < 18; ++i) {
            selectors[i] = handler.act.selector;
        }
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    function invariant_1_escrow_and_vault_hold_exactly_what_they_owe() public view {
        (uint256 balance, uint256 owed) = handler.escrowHolds();
        vm.assertEq(balance, owed, "escrow");
        (balance, owed) = handler.vaultHolds();
        vm.assertEq(balance, owed, "vault");
    }

    function invariant_2_and_4_each_job_pays_out_what_went_in_and_no_more_than_it_ran() public view {
        uint256 count = handler.jobCount();
        for (uint256 i = 0; i < count; ++i) {
            (IMarketplace.Job memory job, MarketHandler.Ledger memory ledger, uint256 time) = handler.jobAt(i);
            uint256 gross = ledger.toProvider + ledger.toFee;
            vm.assertEq(ledger.paidIn, gross + ledger.toRenter + job.lockedAmount, "conservation");
            if (job.user != job.provider) {
                vm.assertLe(gross, uint256(job.pricePerHour) * _aliveAtMost(job, time) / 3600, "accrual");
            }
            bool over = job.status == IMarketplace.JobStatus.Resolved || job.status == IMarketplace.JobStatus.Cancelled;
            vm.assertTrue(!over || job.lockedAmount == 0, "terminal and locked");
        }
    }

    function invariant_3_every_job_comes_free_by_calls_anyone_can_make() public {
        uint256 count = handler.jobCount();
        if (count == 0) return;
        uint256 state = vm.snapshotState();
        vm.assertEq(handler.wind(count - 1), 0, "stuck");
        vm.assertTrue(vm.revertToState(state));
    }

    function invariant_5_and_6_the_drawn_arrows_only() public view {
        vm.assertEq(handler.violation(), "");
    }

    /// @dev Running time up to the end, the paid time and the death; the minimum, unless the host died.
    function _aliveAtMost(IMarketplace.Job memory job, uint256 time) private pure returns (uint256 alive) {
        if (job.startedAt == 0) return 0;
        uint256 stop = job.endedAt == 0 ? time : job.endedAt;
        if (job.startedAt + job.duration < stop) stop = job.startedAt + job.duration;
        alive = stop - job.startedAt;
        if (alive < job.minSeconds) alive = job.minSeconds;
        if (alive < job.settledSeconds) alive = job.settledSeconds;
    }
}
