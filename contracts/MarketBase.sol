// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IMarketplace} from "./interfaces/IMarketplace.sol";
import {IPaymentEscrow} from "./interfaces/IPaymentEscrow.sol";
import {IReputationSystem} from "./interfaces/IReputationSystem.sol";
import {IResourceRegistry} from "./interfaces/IResourceRegistry.sol";
import {IStakeVault} from "./interfaces/IStakeVault.sol";
import {Settlement} from "./libraries/Settlement.sol";

/// @title What every part of the market shares
/// @dev Storage, immutables, and the rules of a job's clock and money, for `Marketplace` and for `MarketExceptions`, whose code runs on
/// the marketplace's storage. No function here is external.
abstract contract MarketBase is ReentrancyGuardTransient {
    struct JobRecord {
        // slot 0: all that a simple rental ever writes
        IMarketplace.JobStatus status;
        uint8 flags;
        uint40 since;
        uint40 startedAt;
        uint32 duration;
        uint32 settledSeconds;
        uint96 pricePerHour;
        // slot 1: read only with the flag COURSE
        Course course;
    }

    /// @dev What makes a job's clock differ from a simple rental's.
    struct Course {
        uint40 endedAt; // written by a dispute; else it follows from `since`
        uint40 deadAt;
        uint40 reclaimAt;
        uint40 outageEnd;
        uint32 outageSeconds;
        bool bonded; // whoever opened the dispute put up a bond
    }

    struct Renewal {
        uint32 stepSeconds;
        uint40 until;
    }

    struct Contracts {
        IPaymentEscrow escrow;
        IResourceRegistry registry;
        IStakeVault stakeVault;
        IReputationSystem reputationSystem;
        address committee;
    }

    /// @custom:storage-location erc7201:gpumarket.storage.Marketplace
    struct Storage {
        mapping(bytes32 jobId => JobRecord) jobs;
        mapping(bytes32 resourceId => bytes32) lastJobOf;
        uint16 feeBps;
        uint16 disputeBondBps;
        mapping(bytes32 jobId => Renewal) renewals;
        mapping(bytes32 jobId => uint8 outcomePlusOne) unrecorded;
    }

    bytes32 private constant STORAGE_SLOT =
        keccak256(abi.encode(uint256(keccak256("gpumarket.storage.Marketplace")) - 1)) & ~bytes32(uint256(0xff));

    /// @dev Completed, and the provider's share is paid.
    uint8 internal constant PAID = 1;
    /// @dev Slot 1 is in use.
    uint8 internal constant COURSE = 2;

    /// @dev What the reputation system gets to count a job; it needs a third.
    uint256 internal constant RECORD_GAS = 100_000;

    uint256 public constant MAX_REASON_BYTES = 256;

    IPaymentEscrow public immutable escrow;
    IResourceRegistry public immutable registry;
    IStakeVault public immutable stakeVault;
    IReputationSystem public immutable reputationSystem;
    address public immutable committee;
    uint32 internal immutable _acceptWindow;
    uint32 internal immutable _startWindow;
    uint32 internal immutable _disputeWindow;
    uint32 internal immutable _verdictWindow;

    constructor(Contracts memory contracts, IMarketplace.Windows memory windows_) {
        escrow = contracts.escrow;
        registry = contracts.registry;
        stakeVault = contracts.stakeVault;
        reputationSystem = contracts.reputationSystem;
        committee = contracts.committee;
        _acceptWindow = windows_.accept;
        _startWindow = windows_.start;
        _disputeWindow = windows_.dispute;
        _verdictWindow = windows_.verdict;
    }

    // ------------------------------------------------------------------- calls

    function _expire(bytes32 jobId) internal {
        JobRecord storage job = _storage().jobs[jobId];
        IMarketplace.JobStatus status = job.status;
        if (status == IMarketplace.JobStatus.Created) {
            _after(jobId, job.since + _acceptWindow);
            _cancel(jobId, job, IMarketplace.EndReason.NotAccepted);
        } else if (status == IMarketplace.JobStatus.Accepted) {
            _after(jobId, job.since + _startWindow);
            address provider = _cancel(jobId, job, IMarketplace.EndReason.NotStarted);
            _record(jobId, provider, IReputationSystem.JobOutcome.NotStarted);
        } else {
            revert IMarketplace.JobStatusInvalid(jobId, status);
        }
    }

    function _end(bytes32 jobId) internal {
        JobRecord storage job = _inStatus(jobId, IMarketplace.JobStatus.Running);
        Course memory course = _courseOf(job);
        if (course.deadAt == 0) _after(jobId, _clockAt(job, course, type(uint40).max));
        IMarketplace.EndReason reason =
            course.reclaimAt == 0 ? IMarketplace.EndReason.TimeOver : IMarketplace.EndReason.Reclaimed;
        _complete(jobId, job, _memoOf(jobId), reason, bytes32(0), type(uint40).max, _disputeWindow == 0);
    }

    function _extend(bytes32 jobId, JobRecord storage job, uint40 extraSeconds, address payer) internal {
        // Check
        uint32 duration = job.duration;
        Course memory course = _courseOf(job);
        uint40 endsAt = _clockAt(job, course, type(uint40).max);
        if (course.reclaimAt != 0 || block.timestamp >= endsAt) revert IMarketplace.JobDeadlinePassed(jobId, endsAt);
        uint40 room = type(uint32).max - duration;
        if (extraSeconds == 0 || extraSeconds > room) revert IMarketplace.DurationOutOfRange(extraSeconds, 1, room);
        uint96 amount = _toAmount(Settlement.lockUp(job.pricePerHour, extraSeconds));

        // Effect
        duration += uint32(extraSeconds);
        job.duration = duration;
        emit IMarketplace.JobExtended(jobId, payer, duration, amount);

        // Interaction
        escrow.addFunds(jobId, amount, payer);
    }

    function _cancel(bytes32 jobId, JobRecord storage job, IMarketplace.EndReason reason)
        internal
        returns (address provider)
    {
        _moveTo(job, IMarketplace.JobStatus.Cancelled);
        emit IMarketplace.JobCancelled(jobId, reason);
        return escrow.releaseFunds(jobId, 0);
    }

    /// @dev Once the host is reported dead the job ends as that, whoever ends it, and the minimum is not billed.
    /// @param consented The renter agrees, or nobody has to: the provider's share is paid now
    function _complete(
        bytes32 jobId,
        JobRecord storage job,
        uint64 memo,
        IMarketplace.EndReason reason,
        bytes32 resultCid,
        uint40 maxSeconds,
        bool consented
    ) internal {
        Course memory course = _courseOf(job);
        if (course.deadAt != 0) reason = IMarketplace.EndReason.ProviderDead;
        uint40 endedAt = _clockAt(job, course, uint40(block.timestamp));
        uint40 billed = uint40(Math.min(_billable(job, course, endedAt, memo), maxSeconds));
        (uint96 price, uint32 settled) = (job.pricePerHour, job.settledSeconds);
        emit IMarketplace.JobCompleted(
            jobId, reason, billed, uint96(Settlement.cost(price, Math.max(billed, settled))), resultCid
        );

        if (consented) {
            _pay(jobId, job, course, billed);
        } else {
            uint96 due = _due(job, billed);
            _moveTo(job, IMarketplace.JobStatus.Completed);
            escrow.refundAbove(jobId, due);
        }
    }

    /// @dev The last payment of a completed job: what is due to the provider, anything else back to the renter.
    function _pay(bytes32 jobId, JobRecord storage job, Course memory course, uint40 billed) internal {
        uint96 due = _due(job, billed);
        uint32 settled = uint32(Math.max(billed, job.settledSeconds));
        if (job.status != IMarketplace.JobStatus.Completed) _moveTo(job, IMarketplace.JobStatus.Completed);
        job.flags |= PAID;
        job.settledSeconds = settled;
        emit IMarketplace.JobSettled(jobId, settled, due);
        address provider = escrow.releaseFunds(jobId, due);
        _record(
            jobId,
            provider,
            course.deadAt == 0 ? IReputationSystem.JobOutcome.Completed : IReputationSystem.JobOutcome.ProviderDied
        );
    }

    /// @param strict Revert with the reason where there is nothing to do
    function _settle(bytes32 jobId, bool strict) internal returns (bool) {
        JobRecord storage job = _storage().jobs[jobId];
        IMarketplace.JobStatus status = job.status;
        if (status == IMarketplace.JobStatus.Running) {
            if (_settleRunning(jobId, job)) return true;
            if (strict) revert IMarketplace.NothingToSettle(jobId);
            return false;
        }
        if (status != IMarketplace.JobStatus.Completed) {
            if (strict) revert IMarketplace.JobStatusInvalid(jobId, status);
            return false;
        }
        if (job.flags & PAID != 0) {
            if (strict) revert IMarketplace.NothingToSettle(jobId);
            return false;
        }
        uint40 deadline = job.since + _disputeWindow;
        if (block.timestamp < deadline) {
            if (strict) revert IMarketplace.JobDeadlineNotReached(jobId, deadline);
            return false;
        }
        Course memory course = _courseOf(job);
        _pay(jobId, job, course, _billable(job, course, _endOf(job, course), _memoOf(jobId)));
        return true;
    }

    /// @dev Proven time only: the minimum is due when the job ends.
    function _settleRunning(bytes32 jobId, JobRecord storage job) internal returns (bool) {
        Course memory course = _courseOf(job);
        uint40 billed = _billable(job, course, _clockAt(job, course, uint40(block.timestamp)), 0);
        uint96 due = _due(job, billed);
        if (due == 0) return false;

        job.settledSeconds = uint32(billed);
        emit IMarketplace.JobSettled(jobId, billed, due);
        escrow.partialRelease(jobId, due);
        return true;
    }

    /// @dev A reputation system that fails must not hold money back: what it missed is kept for `recordReputation`.
    function _record(bytes32 jobId, address provider, IReputationSystem.JobOutcome outcome) internal {
        // Else whoever pays for the gas could choose that it fails.
        if (gasleft() < RECORD_GAS + RECORD_GAS / 32) revert IMarketplace.GasTooLow();
        try reputationSystem.recordJob{gas: RECORD_GAS}(provider, outcome) {}
        catch {
            _storage().unrecorded[jobId] = uint8(outcome) + 1;
            emit IMarketplace.ReputationUnrecorded(jobId, provider, uint8(outcome));
        }
    }

    // ------------------------------------------------------------------- rules

    function _nextDeadline(bytes32 jobId) internal view returns (IMarketplace.Deadline memory) {
        JobRecord storage job = _storage().jobs[jobId];
        IMarketplace.JobStatus status = job.status;
        uint40 since = job.since;
        if (status == IMarketplace.JobStatus.Created) {
            return IMarketplace.Deadline(IMarketplace.expireJob.selector, since + _acceptWindow);
        }
        if (status == IMarketplace.JobStatus.Accepted) {
            return IMarketplace.Deadline(IMarketplace.expireJob.selector, since + _startWindow);
        }
        if (status == IMarketplace.JobStatus.Running) {
            return IMarketplace.Deadline(IMarketplace.endJob.selector, _clockAt(job, _courseOf(job), type(uint40).max));
        }
        if (status == IMarketplace.JobStatus.Completed && job.flags & PAID == 0) {
            return IMarketplace.Deadline(IMarketplace.settleJob.selector, since + _disputeWindow);
        }
        if (status == IMarketplace.JobStatus.Disputed) {
            return IMarketplace.Deadline(IMarketplace.resolveByTimeout.selector, since + _verdictWindow);
        }
        return IMarketplace.Deadline(bytes4(0), 0);
    }

    function _moveTo(JobRecord storage job, IMarketplace.JobStatus status) internal {
        job.status = status;
        job.since = uint40(block.timestamp);
    }

    function _isActive(bytes32 jobId) internal view returns (bool) {
        IMarketplace.JobStatus status = _storage().jobs[jobId].status;
        return status == IMarketplace.JobStatus.Created || status == IMarketplace.JobStatus.Accepted
            || status == IMarketplace.JobStatus.Running;
    }

    function _courseOf(JobRecord storage job) internal view returns (Course memory course) {
        if (job.flags & COURSE != 0) course = job.course;
    }

    function _setCourse(JobRecord storage job, Course memory course) internal {
        job.flags |= COURSE;
        job.course = course;
    }

    /// @dev Where the clock stands at `timestamp`: never past the paid time, the end of a notice, nor the last proof of life. Zero if
    /// not started.
    function _clockAt(JobRecord storage job, Course memory course, uint40 timestamp) internal view returns (uint40) {
        uint40 startedAt = job.startedAt;
        if (startedAt == 0) return 0;
        uint256 stop = Math.min(timestamp, uint256(startedAt) + job.duration);
        if (course.reclaimAt != 0) stop = Math.min(stop, course.reclaimAt);
        if (course.deadAt != 0) stop = Math.min(stop, course.deadAt);
        return uint40(stop);
    }

    /// @dev When the clock stopped; zero while it may run, and if it never did.
    function _endOf(JobRecord storage job, Course memory course) internal view returns (uint40) {
        IMarketplace.JobStatus status = job.status;
        if (status == IMarketplace.JobStatus.Completed) return _clockAt(job, course, job.since);
        return course.endedAt;
    }

    /// @param memo Its low 32 bits: the minimum to bill, unless the host died or took the machine back
    function _billable(JobRecord storage job, Course memory course, uint40 endedAt, uint64 memo)
        internal
        view
        returns (uint40)
    {
        uint32 minSeconds = course.deadAt == 0 && course.reclaimAt == 0 ? uint32(memo) : 0;
        return
            uint40(Settlement.billableSeconds(job.startedAt, endedAt, course.outageSeconds, minSeconds, job.duration));
    }

    function _due(JobRecord storage job, uint40 billed) internal view returns (uint96) {
        return uint96(Settlement.accrued(job.pricePerHour, billed, job.settledSeconds)); // below the uint96 lock
    }

    function _toAmount(uint256 amount) internal pure returns (uint96) {
        if (amount > type(uint96).max) revert IPaymentEscrow.AmountTooLarge(amount);
        return uint96(amount);
    }

    function _inStatus(bytes32 jobId, IMarketplace.JobStatus status) internal view returns (JobRecord storage job) {
        job = _storage().jobs[jobId];
        if (job.status != status) revert IMarketplace.JobStatusInvalid(jobId, job.status);
    }

    function _onlyRenter(bytes32 jobId) internal view {
        (address user,) = escrow.lockOf(jobId);
        if (msg.sender != user) revert IMarketplace.JobCallerUnauthorized(jobId, msg.sender);
    }

    function _onlyProvider(bytes32 jobId) internal view returns (uint64 memo) {
        address provider;
        (provider, memo) = escrow.hostOf(jobId);
        if (msg.sender != provider) revert IMarketplace.JobCallerUnauthorized(jobId, msg.sender);
    }

    function _memoOf(bytes32 jobId) internal view returns (uint64 memo) {
        (, memo) = escrow.hostOf(jobId);
    }

    function _before(bytes32 jobId, uint40 deadline) internal view {
        if (block.timestamp >= deadline) revert IMarketplace.JobDeadlinePassed(jobId, deadline);
    }

    function _after(bytes32 jobId, uint40 deadline) internal view {
        if (block.timestamp < deadline) revert IMarketplace.JobDeadlineNotReached(jobId, deadline);
    }

    function _storage() internal pure returns (Storage storage $) {
        bytes32 slot = STORAGE_SLOT;
        assembly ("memory-safe") {
            $.slot := slot
        }
    }
}
