// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What a provider's past says
/// @notice `score = (uptime*0.4 + response*0.2 + completion*0.3 + (1-disputes)*0.1) * 1000`, less penalties, plus rewards, kept
/// in 0..1000; integer arithmetic in basis points, rounded down (`Reputation.sol`). Until the committee has measured a provider, its uptime and response count as 10000. Every input arrives by an event below, so anyone can replay it. A
/// provider below `MIN_SAMPLE` jobs is "new" and has no score.
interface IReputationSystem {
    enum JobOutcome {
        Completed,
        NotStarted, // accepted, never started in time
        ProviderDied,
        DisputeLost,
        DisputeSplit
    }

    enum PenaltyReason {
        Downtime, // -50
        Timeout, // -25
        DataFraud, // -200
        InvalidSignature, // -50
        DisputeLost // -100
    }

    /// @notice The committee's measurements, basis points 0..10000.
    struct Metrics {
        uint16 uptimePercent; // real availability / promised
        uint16 responseRate; // 1 - average response time / maximum acceptable
        uint16 completionRate; // completed / total jobs
        uint16 disputeRate; // lost or split disputes / total jobs
    }

    struct ReputationScore {
        uint16 score; // 0..1000; 0 while `isNew`
        bool isNew;
        uint32 totalJobs;
        uint32 successfulJobs;
        uint32 disputes;
        uint32 penalty; // points, sum
        uint32 bonus; // points, sum
        uint40 lastUpdated;
    }

    event JobRecorded(address indexed provider, JobOutcome outcome);
    event MetricsUpdated(address indexed provider, uint16 uptimePercent, uint16 responseRate);
    event ReputationUpdated(address indexed provider, uint16 newScore);
    event PenaltyApplied(address indexed provider, PenaltyReason reason, uint16 amount);
    event RewardIssued(address indexed provider, uint16 amount);

    error ReputationCallerUnauthorized(address caller);
    error MetricsOutOfRange(uint16 value);

    /// @notice The market only, once per job.
    function recordJob(address provider, JobOutcome outcome) external;
    /// @notice The committee only. Of `metrics`, uptime and response are taken; the other two are counted here.
    function updateReputation(address provider, Metrics calldata metrics) external;
    /// @notice The committee only.
    function applyPenalty(address provider, PenaltyReason reason) external;
    /// @notice The committee only.
    function reward(address provider, uint16 bonus) external;

    function getReputation(address provider) external view returns (uint256);
    function getPenalty(address provider) external view returns (uint256);
    function scores(address provider) external view returns (ReputationScore memory);
    function metrics(address provider) external view returns (Metrics memory);
    function MIN_SAMPLE() external view returns (uint32);
}
