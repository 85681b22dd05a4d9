// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IMarketplace} from "./interfaces/IMarketplace.sol";
import {IReputationSystem} from "./interfaces/IReputationSystem.sol";
import {MarketBase} from "./MarketBase.sol";
import {Settlement} from "./libraries/Settlement.sol";

/// @title What a job needs only when it does not go the simple way
/// @dev Made by the marketplace's own constructor and run on its storage: a contract may hold 24,576 bytes of code, and the market needs
/// more. Called directly it holds nothing and can do nothing. The functions are those of `IMarketplace`.
contract MarketExceptions is MarketBase {
    uint40 private constant RENEWAL_LEAD = 10 minutes;

    modifier onlyCommittee(bytes32 jobId) {
        if (msg.sender != committee) revert IMarketplace.JobCallerUnauthorized(jobId, msg.sender);
        _;
    }

    constructor(Contracts memory contracts, IMarketplace.Windows memory windows_) MarketBase(contracts, windows_) {}

    function setAutoRenew(bytes32 jobId, uint40 stepSeconds, uint40 until, uint128 maxPricePerHour) external {
        JobRecord storage job = _storage().jobs[jobId];
        if (!_isActive(jobId)) revert IMarketplace.JobStatusInvalid(jobId, job.status);
        _onlyRenter(jobId);
        if (stepSeconds > type(uint32).max) revert IMarketplace.DurationOutOfRange(stepSeconds, 0, type(uint32).max);
        if (job.pricePerHour > maxPricePerHour) {
            revert IMarketplace.PriceAboveMaximum(job.pricePerHour, maxPricePerHour);
        }

        _storage().renewals[jobId] = Renewal(uint32(stepSeconds), until);
        emit IMarketplace.AutoRenewSet(jobId, stepSeconds, until);
    }

    function renewJob(bytes32 jobId) external nonReentrant {
        JobRecord storage job = _inStatus(jobId, IMarketplace.JobStatus.Running);
        Renewal memory renewal = _storage().renewals[jobId];
        uint40 endsAt = job.startedAt + job.duration;
        if (renewal.stepSeconds == 0 || endsAt + renewal.stepSeconds > renewal.until) {
            revert IMarketplace.RenewalNotAllowed(jobId);
        }
        if (block.timestamp + RENEWAL_LEAD < endsAt) {
            revert IMarketplace.JobDeadlineNotReached(jobId, endsAt - RENEWAL_LEAD);
        }
        (address user,,) = escrow.partiesOf(jobId);
        _extend(jobId, job, renewal.stepSeconds, user);
    }

    function reclaimJob(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, IMarketplace.JobStatus.Running);
        uint64 memo = _onlyProvider(jobId);
        uint40 notice = uint40(memo >> 56) * 1 hours;
        uint40 reclaimAt = uint40(block.timestamp) + notice;
        Course memory course = _courseOf(job);
        if (notice == 0 || reclaimAt >= _clockAt(job, course, type(uint40).max)) {
            revert IMarketplace.ReclaimNotAllowed(jobId);
        }

        course.reclaimAt = reclaimAt;
        _setCourse(job, course);
        emit IMarketplace.ReclaimNoticed(jobId, reclaimAt);
    }

    function disputeJob(bytes32 jobId, string calldata reason) external nonReentrant {
        // Check
        if (bytes(reason).length > MAX_REASON_BYTES) {
            revert IMarketplace.DisputeReasonTooLong(bytes(reason).length, MAX_REASON_BYTES);
        }
        JobRecord storage job = _storage().jobs[jobId];
        IMarketplace.JobStatus status = job.status;
        (address user, address provider, uint64 memo) = escrow.partiesOf(jobId);
        if (status == IMarketplace.JobStatus.Completed && job.flags & PAID == 0) {
            if (msg.sender != user) revert IMarketplace.JobCallerUnauthorized(jobId, msg.sender);
            _before(jobId, job.since + _disputeWindow);
        } else if (status == IMarketplace.JobStatus.Accepted || status == IMarketplace.JobStatus.Running) {
            if (msg.sender != user && msg.sender != provider) {
                revert IMarketplace.JobCallerUnauthorized(jobId, msg.sender);
            }
        } else {
            revert IMarketplace.JobStatusInvalid(jobId, status);
        }

        // Effect
        Course memory course = _courseOf(job);
        uint40 endedAt =
            _clockAt(job, course, status == IMarketplace.JobStatus.Completed ? job.since : uint40(block.timestamp));
        course.endedAt = endedAt;
        course.bonded = _storage().disputeBondBps > 0;
        _setCourse(job, course);
        _moveTo(job, IMarketplace.JobStatus.Disputed);
        uint96 contested = _due(job, _billable(job, course, endedAt, memo));
        emit IMarketplace.JobDisputed(jobId, msg.sender, reason, contested);

        // Interaction
        escrow.refundAbove(jobId, contested);
        if (course.bonded) _bond(jobId, contested, msg.sender, msg.sender == user ? provider : user);
    }

    function submitEvidence(bytes32 jobId, bytes32 evidenceCid) external {
        _inStatus(jobId, IMarketplace.JobStatus.Disputed);
        (address user, address provider,) = escrow.partiesOf(jobId);
        if (msg.sender != user && msg.sender != provider) revert IMarketplace.JobCallerUnauthorized(jobId, msg.sender);
        emit IMarketplace.EvidenceSubmitted(jobId, msg.sender, evidenceCid);
    }

    function expireBatch(bytes32[] calldata jobIds) external returns (uint256 executed) {
        for (uint256 i = 0; i < jobIds.length; ++i) {
            IMarketplace.Deadline memory due = _nextDeadline(jobIds[i]);
            if (due.selector == bytes4(0) || block.timestamp < due.timestamp) continue;
            if (due.selector == IMarketplace.expireJob.selector) _expire(jobIds[i]);
            else if (due.selector == IMarketplace.endJob.selector) _end(jobIds[i]);
            else if (due.selector == IMarketplace.settleJob.selector) _settle(jobIds[i], true);
            else _split(jobIds[i]);
            ++executed;
        }
    }

    function resolveByTimeout(bytes32 jobId) external {
        _split(jobId);
    }

    function recordReputation(bytes32 jobId) external {
        uint8 outcome = _storage().unrecorded[jobId];
        if (outcome == 0) revert IMarketplace.NothingToRecord(jobId);

        _storage().unrecorded[jobId] = 0;
        (address provider,) = escrow.hostOf(jobId);
        reputationSystem.recordJob(provider, IReputationSystem.JobOutcome(outcome - 1));
    }

    /// @dev Only the part after the last recorded outage, and inside the time the clock ran, counts: nothing is taken off twice.
    function recordOutage(bytes32 jobId, uint40 from, uint40 to) external onlyCommittee(jobId) {
        JobRecord storage job = _storage().jobs[jobId];
        IMarketplace.JobStatus status = job.status;
        bool unpaid = status == IMarketplace.JobStatus.Completed && job.flags & PAID == 0;
        if (status != IMarketplace.JobStatus.Running && status != IMarketplace.JobStatus.Disputed && !unpaid) {
            revert IMarketplace.JobStatusInvalid(jobId, status);
        }

        Course memory course = _courseOf(job);
        uint256 start = Math.max(from, Math.max(job.startedAt, course.outageEnd));
        uint256 stop = status == IMarketplace.JobStatus.Running
            ? _clockAt(job, course, uint40(block.timestamp))
            : _endOf(job, course);
        uint256 end = Math.min(to, stop);
        if (job.startedAt == 0 || start >= end) revert IMarketplace.OutageInvalid(jobId, from, to);

        course.outageSeconds += uint32(end - start);
        course.outageEnd = uint40(end);
        _setCourse(job, course);
        emit IMarketplace.OutageRecorded(jobId, uint40(start), uint40(end));
    }

    function recordDeath(bytes32 jobId, uint40 timestamp) external onlyCommittee(jobId) {
        JobRecord storage job = _inStatus(jobId, IMarketplace.JobStatus.Running);
        Course memory course = _courseOf(job);
        if (course.deadAt != 0 || timestamp > block.timestamp) revert IMarketplace.OutageInvalid(jobId, timestamp, 0);

        uint40 deadAt = uint40(Math.max(timestamp, job.startedAt));
        course.deadAt = deadAt;
        _setCourse(job, course);
        emit IMarketplace.DeathRecorded(jobId, deadAt);
    }

    function resolveDispute(bytes32 jobId, IMarketplace.Verdict verdict) external onlyCommittee(jobId) {
        _resolve(jobId, _inStatus(jobId, IMarketplace.JobStatus.Disputed), verdict, false);
    }

    // ----------------------------------------------------------------- private

    /// @dev The bond is an escrow of its own, between the one who disputes and the other party. A token that is no longer allowed cannot
    /// be taken, and must not keep anybody from a dispute.
    function _bond(bytes32 jobId, uint96 contested, address initiator, address other) private {
        address token = escrow.escrows(jobId).token;
        uint96 amount = uint96(Settlement.fee(contested, _storage().disputeBondBps));
        if (amount == 0 || !escrow.isTokenAllowed(token)) return;
        escrow.lockFunds(_bondId(jobId), token, amount, initiator, other, 0, 0);
    }

    /// @dev To the other party if the one who disputed lost, else back.
    function _returnBond(bytes32 jobId, address provider, IMarketplace.Verdict verdict) private {
        bytes32 bondId = _bondId(jobId);
        (address initiator, uint96 amount) = escrow.lockOf(bondId);
        if (amount == 0) return;
        IMarketplace.Verdict lost =
            initiator == provider ? IMarketplace.Verdict.ProviderFault : IMarketplace.Verdict.UserFault;
        escrow.releaseFunds(bondId, verdict == lost ? amount : 0);
    }

    function _bondId(bytes32 jobId) private pure returns (bytes32) {
        return keccak256(abi.encode("bond", jobId));
    }

    function _split(bytes32 jobId) private {
        JobRecord storage job = _inStatus(jobId, IMarketplace.JobStatus.Disputed);
        _after(jobId, job.since + _verdictWindow);
        _resolve(jobId, job, IMarketplace.Verdict.SplitPayment, true);
    }

    function _resolve(bytes32 jobId, JobRecord storage job, IMarketplace.Verdict verdict, bool byTimeout) private {
        Course memory course = _courseOf(job);
        uint256 toProvider = _due(job, _billable(job, course, course.endedAt, _memoOf(jobId)));
        IReputationSystem.JobOutcome outcome = IReputationSystem.JobOutcome.Completed;
        if (verdict == IMarketplace.Verdict.ProviderFault) {
            toProvider = 0;
            outcome = IReputationSystem.JobOutcome.DisputeLost;
        } else if (verdict == IMarketplace.Verdict.SplitPayment) {
            (toProvider,) = Settlement.split(toProvider);
            outcome = IReputationSystem.JobOutcome.DisputeSplit;
        }

        _moveTo(job, IMarketplace.JobStatus.Resolved);
        emit IMarketplace.JobResolved(jobId, verdict, byTimeout);
        address provider = escrow.releaseFunds(jobId, uint96(toProvider));
        if (course.bonded) _returnBond(jobId, provider, verdict);
        _record(jobId, provider, outcome);
    }
}
