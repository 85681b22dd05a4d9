// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IReputationSystem} from "../../contracts/interfaces/IReputationSystem.sol";
import {MarketTest} from "./support/MarketTest.sol";
import {Vm} from "./support/Vm.sol";

contract ReputationSystemTest is MarketTest {
    event ReputationUpdated(address indexed provider, uint16 newScore);
    event PenaltyApplied(address indexed provider, IReputationSystem.PenaltyReason reason, uint16 amount);

    function _record(IReputationSystem.JobOutcome outcome, uint256 times) private {
        for (uint256 i = 0; i < times; ++i) {
            vm.prank(address(market));
            reputation.recordJob(provider, outcome);
        }
    }

    function test_new_until_enough_jobs() public {
        _record(IReputationSystem.JobOutcome.Completed, 4);
        vm.assertTrue(reputation.scores(provider).isNew);
        vm.assertEq(reputation.getReputation(provider), 0);
        vm.expectEmit(address(reputation));
        emit ReputationUpdated(provider, 1000);
        _record(IReputationSystem.JobOutcome.Completed, 1);
        IReputationSystem.ReputationScore memory score = reputation.scores(provider);
        vm.assertFalse(score.isNew);
        vm.assertEq(score.score, 1000);
        vm.assertEq(score.totalJobs, 5);
        vm.assertEq(score.lastUpdated, _now());
        vm.assertEq(reputation.MIN_SAMPLE(), 5);
    }

    function test_outcomes_move_completion_and_disputes() public {
        _record(IReputationSystem.JobOutcome.Completed, 6);
        _record(IReputationSystem.JobOutcome.NotStarted, 1);
        _record(IReputationSystem.JobOutcome.ProviderDied, 1);
        _record(IReputationSystem.JobOutcome.DisputeLost, 1);
        _record(IReputationSystem.JobOutcome.DisputeSplit, 1);
        IReputationSystem.Metrics memory m = reputation.metrics(provider);
        vm.assertEq(m.completionRate, 6000);
        vm.assertEq(m.disputeRate, 2000);
        vm.assertEq(m.uptimePercent, 10_000);
        // 400 + 200 + 180 + 80
        vm.assertEq(reputation.getReputation(provider), 860);
    }

    function test_metrics_come_from_the_committee_and_the_counts_from_here() public {
        _record(IReputationSystem.JobOutcome.Completed, 5);
        vm.prank(address(committee));
        reputation.updateReputation(provider, IReputationSystem.Metrics(9000, 5000, 1, 9999));
        vm.assertEq(reputation.metrics(provider).completionRate, 10_000);
        // 360 + 100 + 300 + 100
        vm.assertEq(reputation.getReputation(provider), 860);
    }

    function test_metrics_range() public {
        vm.startPrank(address(committee));
        vm.expectRevert(abi.encodeWithSelector(IReputationSystem.MetricsOutOfRange.selector, 10_001));
        reputation.updateReputation(provider, IReputationSystem.Metrics(10_001, 0, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(IReputationSystem.MetricsOutOfRange.selector, 10_002));
        reputation.updateReputation(provider, IReputationSystem.Metrics(10_000, 10_002, 0, 0));
        vm.stopPrank();
    }

    function test_penalties_add_up_and_the_score_stops_at_zero() public {
        _record(IReputationSystem.JobOutcome.Completed, 5);
        uint16[5] memory amounts = [uint16(50), 25, 200, 50, 100];
        uint256 sum;
        vm.startPrank(address(committee));
        for (uint256 i = 0; i < 5; ++i) {
            sum += amounts[i];
            vm.expectEmit(address(reputation));
            emit PenaltyApplied(provider, IReputationSystem.PenaltyReason(i), amounts[i]);
            reputation.applyPenalty(provider, IReputationSystem.PenaltyReason(i));
        }
        vm.assertEq(reputation.getPenalty(provider), sum);
        vm.assertEq(reputation.getReputation(provider), 1000 - sum);
        for (uint256 i = 0; i < 5; ++i) {
            reputation.applyPenalty(provider, IReputationSystem.PenaltyReason.DataFraud);
        }
        vm.assertEq(reputation.getReputation(provider), 0);
        vm.stopPrank();
    }

    function test_a_reward_adds_and_the_score_stops_at_a_thousand() public {
        _record(IReputationSystem.JobOutcome.Completed, 5);
        vm.startPrank(address(committee));
        reputation.applyPenalty(provider, IReputationSystem.PenaltyReason.DisputeLost);
        reputation.reward(provider, 30);
        vm.assertEq(reputation.getReputation(provider), 930);
        reputation.reward(provider, 500);
        vm.assertEq(reputation.getReputation(provider), 1000);
        vm.stopPrank();
        vm.assertEq(reputation.scores(provider).bonus, 530);
    }

    function test_callers() public {
        bytes memory expected =
            abi.encodeWithSelector(IReputationSystem.ReputationCallerUnauthorized.selector, stranger);
        vm.startPrank(stranger);
        vm.expectRevert(expected);
        reputation.recordJob(provider, IReputationSystem.JobOutcome.Completed);
        vm.expectRevert(expected);
        reputation.updateReputation(provider, IReputationSystem.Metrics(1, 1, 1, 1));
        vm.expectRevert(expected);
        reputation.applyPenalty(provider, IReputationSystem.PenaltyReason.Timeout);
        vm.expectRevert(expected);
        reputation.reward(provider, 1);
        vm.stopPrank();
    }

    /// @dev Invariant 9: the events alone give the same number.
    function testFuzz_the_score_is_a_replay_of_events(uint8[24] calldata steps) public {
        vm.recordLogs();
        for (uint256 i = 0; i < 24; ++i) {
            uint8 kind = steps[i] % 4;
            if (kind < 2) {
                _record(IReputationSystem.JobOutcome(steps[i] / 4 % 5), 1);
                continue;
            }
            vm.prank(address(committee));
            if (kind == 2) reputation.applyPenalty(provider, IReputationSystem.PenaltyReason(steps[i] / 4 % 5));
            else reputation.updateReputation(provider, IReputationSystem.Metrics(uint16(steps[i]) * 39, 9000, 0, 0));
        }
        vm.assertEq(_replay(vm.getRecordedLogs()), reputation.getReputation(provider));
    }

    function _replay(Vm.Log[] memory logs) private pure returns (uint256) {
        (uint256 total, uint256 good, uint256 disputes, uint256 penalty) = (0, 0, 0, 0);
        (uint256 uptime, uint256 response) = (10_000, 10_000);
        for (uint256 i = 0; i < logs.length; ++i) {
            bytes32 topic = logs[i].topics[0];
            if (topic == keccak256("JobRecorded(address,uint8)")) {
                uint8 outcome = abi.decode(logs[i].data, (uint8));
                total++;
                if (outcome == 0) good++;
                if (outcome > 2) disputes++;
            } else if (topic == keccak256("PenaltyApplied(address,uint8,uint16)")) {
                (, uint16 amount) = abi.decode(logs[i].data, (uint8, uint16));
                penalty += amount;
            } else if (topic == keccak256("MetricsUpdated(address,uint16,uint16)")) {
                (uptime, response) = abi.decode(logs[i].data, (uint256, uint256));
            }
        }
        if (total < 5) return 0;
        uint256 base =
            (uptime * 4 + response * 2 + good * 10_000 / total * 3 + 10_000 - disputes * 10_000 / total) / 100;
        return base > penalty ? base - penalty : 0;
    }
}
