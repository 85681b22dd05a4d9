// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IResourceRegistry} from "./IResourceRegistry.sol";

/// @title The market: jobs and their life
/// @notice A renter opens a job on a resource, the provider accepts and starts it, and it ends in one of three
/// terminal states. The market holds no token: it tells the escrow which of the job's own money goes to which of the
/// job's own two parties. Every deadline can be executed by anyone.
///
/// ```
/// Created --accept--> Accepted --start--> Running --complete/stop/end--> Completed
///    | cancel            | expire, cancel    | dispute                       | dispute (renter, in the window)
///    v                   v  | dispute        v                              v
/// Cancelled          Cancelled +---------> Disputed --verdict, or none in time--> Resolved
/// ```
///
/// Trust: the market is upgradeable behind an admin (a timelock in production). The escrow is not, and pays a job's
/// money only to that job's renter, provider, and a fee capped in its code.
interface IMarketplace {
    enum JobStatus {
        None,
        Created,
        Accepted,
        Running,
        Completed,
        Disputed,
        Resolved,
        Cancelled
    }

    enum Verdict {
        ProviderFault,
        UserFault,
        SplitPayment
    }

    /// @notice Why a job ended. 1..99 the renter, 100..199 the provider, 200..299 the network.
    enum EndReason {
        None,
        RenterCancelled,
        RenterStopped,
        ProviderCompleted,
        NotAccepted,
        NotStarted,
        TimeOver,
        ProviderDead,
        Disputed,
        Reclaimed
    }

    /// @notice What a renter asks for.
    struct JobRequest {
        bytes32 resourceId;
        bytes32 imageCid; // sha2-256 digest of the image's root CID (CIDv1, dag-pb, unixfs-v1-2025)
        uint40 duration; // seconds paid for
        uint128 maxPricePerHour; // base units; the rental reverts if the resource asks more
        address paymentToken; // must be the resource's
        bytes spec; // canonical JSON job spec, at most MAX_SPEC_BYTES; emitted, and bound by the job id
    }

    /// @notice An ERC-2612 permit for the escrow. A permit somebody already used is no error if the allowance is there.
    struct Permit {
        uint256 value;
        uint256 deadline;
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    /// @notice A job as anyone may read it. Times are unix seconds, zero where not reached.
    struct Job {
        bytes32 jobId;
        address user; // the renter
        address provider;
        bytes32 resourceId;
        address paymentToken;
        JobStatus status;
        uint40 since; // when the present status began
        uint40 startedAt;
        uint40 endedAt;
        uint40 duration; // seconds paid for
        uint32 outageSeconds; // reported by the committee, never billed
        uint32 minSeconds; // billed at least, once started
        uint40 settledSeconds; // billable seconds already released to the provider
        uint40 deadAt; // last proof of life, when the committee reported the host dead
        uint128 pricePerHour; // copied at creation
        uint96 lockedAmount; // base units still in escrow for this job
    }

    /// @notice The call that is due for a job and when.
    /// @param selector The function of this contract to call; zero in a terminal state with nothing left to release
    /// @param timestamp Unix seconds from which anyone may call it
    struct Deadline {
        bytes4 selector;
        uint40 timestamp;
    }

    /// @notice How long each side has, in seconds; fixed in the implementation.
    struct Windows {
        uint32 accept; // from creation; then anyone expires the job
        uint32 start; // from acceptance; then anyone expires the job
        uint32 dispute; // from completion; then anyone settles
        uint32 verdict; // from the dispute; then anyone splits
    }

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
    event JobAccepted(bytes32 indexed jobId, address indexed provider);
    event JobStarted(bytes32 indexed jobId, uint40 startTime);
    event JobExtended(bytes32 indexed jobId, address indexed payer, uint40 duration, uint96 amount);
    event JobSettled(bytes32 indexed jobId, uint40 settledSeconds, uint96 amount);
    event JobCompleted(
        bytes32 indexed jobId, EndReason reason, uint40 billableSeconds, uint96 finalCost, bytes32 resultCid
    );
    event JobCancelled(bytes32 indexed jobId, EndReason reason);
    event JobDisputed(bytes32 indexed jobId, address indexed initiator, string reason, uint96 contestedAmount);
    event JobResolved(bytes32 indexed jobId, Verdict verdict, bool byTimeout);
    event EvidenceSubmitted(bytes32 indexed jobId, address indexed party, bytes32 evidenceCid);
    event OutageRecorded(bytes32 indexed jobId, uint40 from, uint40 to);
    event DeathRecorded(bytes32 indexed jobId, uint40 timestamp);
    event AutoRenewSet(bytes32 indexed jobId, uint40 stepSeconds, uint40 until);
    event ReclaimNoticed(bytes32 indexed jobId, uint40 reclaimAt);
    /// @notice The reputation system failed: `recordReputation` tries again.
    event ReputationUnrecorded(bytes32 indexed jobId, address indexed provider, uint8 outcome);
    event FeeUpdated(uint16 feeBps);
    event DisputeBondUpdated(uint16 bondBps);

    error JobStatusInvalid(bytes32 jobId, JobStatus actual);
    error JobCallerUnauthorized(bytes32 jobId, address caller);
    error JobDeadlineNotReached(bytes32 jobId, uint40 timestamp);
    error JobDeadlinePassed(bytes32 jobId, uint40 timestamp);
    error ResourceUnavailable(bytes32 resourceId);
    error ResourceBusy(bytes32 resourceId, bytes32 jobId);
    error ProviderStakeTooLow(address provider, uint256 stake, uint256 required);
    error PriceAboveMaximum(uint128 pricePerHour, uint128 maximum);
    error PaymentTokenMismatch(address expected, address given);
    error DurationOutOfRange(uint40 duration, uint40 minimum, uint40 maximum);
    error SpecTooLarge(uint256 size, uint256 maximum);
    error ReceiptSignatureInvalid(bytes32 jobId);
    error OutageInvalid(bytes32 jobId, uint40 from, uint40 to);
    error NothingToSettle(bytes32 jobId);
    error FeeTooHigh(uint16 feeBps, uint16 maximum);
    error DisputeReasonTooLong(uint256 size, uint256 maximum);
    error RenewalNotAllowed(bytes32 jobId);
    error ReclaimNotAllowed(bytes32 jobId);
    error NothingToRecord(bytes32 jobId);
    error GasTooLow();

    // ------------------------------------------------------------------ renter

    /// @notice Opens a job at the resource's asking price with an empty spec. Needs an allowance for the escrow.
    function createJob(bytes32 resourceId, bytes32 imageCid, uint256 estimatedDuration) external returns (bytes32 jobId);

    /// @notice Opens a job. Takes `Settlement.lockUp(price, duration)` from the caller's escrow balance first, then its wallet.
    function createJob(JobRequest calldata request) external returns (bytes32 jobId);

    /// @notice `createJob` with the allowance in the same transaction.
    function createJobWithPermit(JobRequest calldata request, Permit calldata permit) external returns (bytes32 jobId);

    /// @notice Opens a job that is already Accepted, on terms the provider signed. The resource must still be listed as available, its
    /// access policy still decides, and the provider must still have its stake.
    /// @param proof Merkle proof that the caller is one of `offer.renters`; empty where that is zero
    function createJobFromOffer(
        JobRequest calldata request,
        IResourceRegistry.Offer calldata offer,
        bytes calldata signature,
        bytes32[] calldata proof
    ) external returns (bytes32 jobId);

    /// @notice Renter, while Created: all money back.
    function cancelJob(bytes32 jobId) external;

    /// @notice Renter, while Running: pays for the billable seconds (at least `minSeconds`), the rest comes back at once.
    function stopJob(bytes32 jobId) external;

    /// @notice Anybody buys more time at the locked price, while Running and before the end. Only ever adds time and money.
    function extendJob(bytes32 jobId, uint40 extraSeconds) external;

    /// @notice Renter: lets anyone call `renewJob`, paid by the renter at the locked price. Zero steps end it.
    /// @param stepSeconds How much each renewal buys
    /// @param until Unix seconds the paid time may reach
    /// @param maxPricePerHour Reverts if the job's price is above
    function setAutoRenew(bytes32 jobId, uint40 stepSeconds, uint40 until, uint128 maxPricePerHour) external;

    /// @notice Anyone, in the last ten minutes of the paid time, where the renter allowed it.
    function renewJob(bytes32 jobId) external;

    // ---------------------------------------------------------------- provider

    function acceptJob(bytes32 jobId) external;

    /// @notice `acceptJob` and `startJob` in one transaction.
    function acceptAndStartJob(bytes32 jobId) external;

    /// @notice Gives the notice that was agreed when the job was opened; the job ends with it, and no minimum is billed.
    function reclaimJob(bytes32 jobId) external;

    /// @notice The clock runs from here.
    function startJob(bytes32 jobId) external;

    /// @notice The provider's share waits out the dispute window; the rest goes back to the renter at once.
    function completeJob(bytes32 jobId) external;

    /// @param resultCid sha2-256 digest of the results' root CID, zero for none
    function completeJob(bytes32 jobId, bytes32 resultCid) external;

    /// @notice Completion with the renter's signed `Receipt(bytes32 jobId,bytes32 resultCid,uint40 maxSeconds)`: paid at once.
    function completeJobWithReceipt(bytes32 jobId, bytes32 resultCid, uint40 maxSeconds, bytes calldata signature)
        external;

    // ----------------------------------------------------------- either party

    /// @notice Either party while Accepted or Running; the renter also while Completed and inside the dispute window. Stops the clock.
    /// @param reason At most 256 bytes, for people; decides nothing
    function disputeJob(bytes32 jobId, string calldata reason) external;

    /// @notice Either party while Disputed.
    function submitEvidence(bytes32 jobId, bytes32 evidenceCid) external;

    // ------------------------------------------------------------------ anyone

    /// @notice Created after the accept window, or Accepted after the start window: all money back.
    function expireJob(bytes32 jobId) external;

    /// @notice Running after the paid time, or once the committee reported the host dead.
    function endJob(bytes32 jobId) external;

    /// @notice While Running: releases what accrued so far. Completed, after the dispute window: releases the rest.
    function settleJob(bytes32 jobId) external;

    /// @notice `settleJob` for each that has something to settle; the others are passed over.
    function settleBatch(bytes32[] calldata jobIds) external returns (uint256 settled);

    /// @notice The call that `nextDeadline` names, for each job where it is due; the others are passed over.
    function expireBatch(bytes32[] calldata jobIds) external returns (uint256 executed);

    /// @notice Disputed and no verdict in time: split.
    function resolveByTimeout(bytes32 jobId) external;

    /// @notice Counts a job that the reputation system failed to count when it ended.
    function recordReputation(bytes32 jobId) external;

    // ---------------------------------------------------------- committee only

    function recordOutage(bytes32 jobId, uint40 from, uint40 to) external;
    function recordDeath(bytes32 jobId, uint40 timestamp) external;
    function resolveDispute(bytes32 jobId, Verdict verdict) external;

    // ------------------------------------------------------------------- admin

    /// @notice For jobs opened from now on; at most the escrow's cap.
    function setFee(uint16 feeBps) external;

    /// @notice What whoever opens a dispute puts up, as a part of the contested amount; at most 20 %, zero for none. The other party gets it
    /// if the verdict goes against the one who disputed; else it goes back.
    function setDisputeBond(uint16 bondBps) external;

    /// @notice Stops new jobs and nothing else.
    function pause() external;
    function unpause() external;

    // ------------------------------------------------------------------- views

    function getJob(bytes32 jobId) external view returns (Job memory);
    function nextDeadline(bytes32 jobId) external view returns (Deadline memory);
    function windows() external view returns (Windows memory);
    function feeBps() external view returns (uint16);
    function disputeBondBps() external view returns (uint16);
    /// @notice The job that has the resource now, zero if it is free.
    function activeJobOf(bytes32 resourceId) external view returns (bytes32 jobId);
    /// @notice Billable seconds if the job ended at `timestamp`: running minus outage, at least `minSeconds`, at most `duration`.
    function billableSeconds(bytes32 jobId, uint40 timestamp) external view returns (uint40);
    /// @notice The id a job gets: keccak256(abi.encode(chainid, market, previous job of the resource, renter, resourceId,
    /// imageCid, duration, pricePerHour, keccak256(spec))). It commits to the terms, so they need no storage.
    function computeJobId(
        bytes32 previousJobId,
        address user,
        bytes32 resourceId,
        bytes32 imageCid,
        uint40 duration,
        uint128 pricePerHour,
        bytes32 specHash
    ) external view returns (bytes32);
}
