// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {MarketTest} from "../support/MarketTest.sol";

/// @notice Every call in every status: it moves along a drawn arrow, or reverts with the status it found.
contract TransitionsTest is MarketTest {
    uint256 private constant STATUSES = 8;

    struct Attempt {
        address caller;
        bytes data;
        uint8 allowed; // bit i: allowed in status i
    }

    function _bit(IMarketplace.JobStatus status) private pure returns (uint8) {
        return uint8(1 << uint8(status));
    }

    function _attempts(bytes32 jobId) private view returns (Attempt[] memory list) {
        uint8 created = _bit(IMarketplace.JobStatus.Created);
        uint8 accepted = _bit(IMarketplace.JobStatus.Accepted);
        uint8 running = _bit(IMarketplace.JobStatus.Running);
        uint8 completed = _bit(IMarketplace.JobStatus.Completed);
        uint8 disputed = _bit(IMarketplace.JobStatus.Disputed);
        list = new Attempt[](15);
        list[0] = Attempt(renter, abi.encodeCall(market.cancelJob, (jobId)), created);
        list[1] = Attempt(renter, abi.encodeCall(market.stopJob, (jobId)), running);
        list[2] = Attempt(renter, abi.encodeCall(market.extendJob, (jobId, 60)), running);
        list[3] = Attempt(provider, abi.encodeCall(market.acceptJob, (jobId)), created);
        list[4] = Attempt(provider, abi.encodeCall(market.startJob, (jobId)), accepted);
        list[5] = Attempt(provider, abi.encodeWithSignature("completeJob(bytes32)", jobId), running);
        list[6] = Attempt(provider, abi.encodeWithSignature("completeJob(bytes32,bytes32)", jobId, RESULT), running);
        list[7] = Attempt(renter, abi.encodeCall(market.disputeJob, (jobId, "")), accepted | running | completed);
        list[8] = Attempt(renter, abi.encodeCall(market.submitEvidence, (jobId, RESULT)), disputed);
        list[9] = Attempt(stranger, abi.encodeCall(market.expireJob, (jobId)), created | accepted);
        list[10] = Attempt(stranger, abi.encodeCall(market.endJob, (jobId)), running);
        list[11] = Attempt(stranger, abi.encodeCall(market.settleJob, (jobId)), running | completed);
        list[12] = Attempt(stranger, abi.encodeCall(market.resolveByTimeout, (jobId)), disputed);
        list[13] = Attempt(
            address(committee), abi.encodeCall(market.resolveDispute, (jobId, IMarketplace.Verdict.UserFault)), disputed
        );
        list[14] = Attempt(address(committee), abi.encodeCall(market.recordDeath, (jobId, _now())), running);
    }

    function test_every_forbidden_transition_reverts_with_the_status_found() public {
        for (uint8 i = 0; i < STATUSES; ++i) {
            uint256 state = vm.snapshotState();
            bytes32 jobId = _jobIn(IMarketplace.JobStatus(i));
            Attempt[] memory attempts = _attempts(jobId);
            for (uint256 k = 0; k < attempts.length; ++k) {
                if (attempts[k].allowed & (1 << i) != 0) continue;
                vm.prank(attempts[k].caller);
                (bool done, bytes memory reason) = address(market).call(attempts[k].data);
                vm.assertFalse(done);
                vm.assertEq(
                    keccak256(reason),
                    keccak256(abi.encodeWithSelector(IMarketplace.JobStatusInvalid.selector, jobId, i))
                );
            }
            vm.revertToState(state);
        }
    }

    function test_every_allowed_transition_succeeds_when_due() public {
        for (uint8 i = 0; i < STATUSES; ++i) {
            for (uint256 k = 0; k < 15; ++k) {
                uint256 state = vm.snapshotState();
                bytes32 jobId = _jobIn(IMarketplace.JobStatus(i));
                Attempt[] memory attempts = _attempts(jobId);
                if (attempts[k].allowed & (1 << i) != 0) {
                    IMarketplace.Deadline memory due = market.nextDeadline(jobId);
                    bool waits = attempts[k].caller == stranger;
                    if (waits && _now() < due.timestamp) vm.warp(due.timestamp);
                    vm.prank(attempts[k].caller);
                    (bool done,) = address(market).call(attempts[k].data);
                    vm.assertTrue(done, string(abi.encodePacked("attempt ", bytes1(uint8(65 + k)))));
                }
                vm.revertToState(state);
            }
        }
    }

    function test_a_paid_completed_job_is_terminal() public {
        bytes32 jobId = _running();
        vm.prank(renter);
        market.stopJob(jobId);
        Attempt[] memory attempts = _attempts(jobId);
        for (uint256 k = 0; k < attempts.length; ++k) {
            vm.prank(attempts[k].caller);
            (bool done,) = address(market).call(attempts[k].data);
            vm.assertFalse(done);
        }
    }

    /// @dev Invariant 3: whatever the other side does, the named call frees the money when its time has come.
    function test_next_deadline_names_a_call_that_succeeds_for_anyone() public {
        for (uint8 i = 1; i < STATUSES; ++i) {
            uint256 state = vm.snapshotState();
            bytes32 jobId = _jobIn(IMarketplace.JobStatus(i));
            for (uint256 step = 0; step < 3; ++step) {
                IMarketplace.Deadline memory due = market.nextDeadline(jobId);
                if (due.selector == bytes4(0)) break;
                if (_now() < due.timestamp) vm.warp(due.timestamp);
                vm.prank(stranger);
                (bool done,) = address(market).call(abi.encodeWithSelector(due.selector, jobId));
                vm.assertTrue(done);
            }
            vm.assertEq(_locked(jobId), 0);
            vm.assertEq(market.nextDeadline(jobId).selector, bytes32(0));
            vm.revertToState(state);
        }
    }
}
