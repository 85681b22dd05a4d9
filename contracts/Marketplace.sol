// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControlUpgradeable} from "@openzeppelin/contracts-upgradeable/access/AccessControlUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {EIP712Upgradeable} from "@openzeppelin/contracts-upgradeable/utils/cryptography/EIP712Upgradeable.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IMarketplace} from "./interfaces/IMarketplace.sol";
import {IPaymentEscrow} from "./interfaces/IPaymentEscrow.sol";
import {IReputationSystem} from "./interfaces/IReputationSystem.sol";
import {IResourceRegistry} from "./interfaces/IResourceRegistry.sol";
import {IStakeVault} from "./interfaces/IStakeVault.sol";
import {Settlement} from "./libraries/Settlement.sol";

/// @title The market: jobs and their life
/// @dev Holds no token. The only untrusted code it ever runs is a payment token's `permit` and, through the escrow,
/// `transferFrom`; both come after every effect or before any, and the entry points that reach them are guarded.
contract Marketplace is
    IMarketplace,
    AccessControlUpgradeable,
    PausableUpgradeable,
    EIP712Upgradeable,
    ReentrancyGuardTransient,
    UUPSUpgradeable
{
    struct JobRecord {
        // slot 0: all that a simple rental ever writes
        JobStatus status;
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
        mapping(bytes32 jobId => Renewal) renewals;
        mapping(bytes32 jobId => uint8 outcomePlusOne) unrecorded;
    }

    bytes32 private constant STORAGE_SLOT =
        keccak256(abi.encode(uint256(keccak256("gpumarket.storage.Marketplace")) - 1)) & ~bytes32(uint256(0xff));
    bytes32 private constant RECEIPT_TYPEHASH = keccak256("Receipt(bytes32 jobId,bytes32 resultCid,uint40 maxSeconds)");

    /// @dev Completed, and the provider's share is paid.
    uint8 private constant PAID = 1;
    /// @dev Slot 1 is in use.
    uint8 private constant COURSE = 2;

    /// @dev What the reputation system gets to count a job; it needs a third.
    uint256 private constant RECORD_GAS = 100_000;
    uint40 private constant RENEWAL_LEAD = 10 minutes;

    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");
    uint256 public constant MAX_SPEC_BYTES = 4096;
    uint256 public constant MAX_REASON_BYTES = 256;

    IPaymentEscrow public immutable escrow;
    IResourceRegistry public immutable registry;
    IStakeVault public immutable stakeVault;
    IReputationSystem public immutable reputationSystem;
    address public immutable committee;
    uint32 private immutable _acceptWindow;
    uint32 private immutable _startWindow;
    uint32 private immutable _disputeWindow;
    uint32 private immutable _verdictWindow;

    modifier onlyCommittee(bytes32 jobId) {
        if (msg.sender != committee) revert JobCallerUnauthorized(jobId, msg.sender);
        _;
    }

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor(Contracts memory contracts, Windows memory windows_) {
        escrow = contracts.escrow;
        registry = contracts.registry;
        stakeVault = contracts.stakeVault;
        reputationSystem = contracts.reputationSystem;
        committee = contracts.committee;
        _acceptWindow = windows_.accept;
        _startWindow = windows_.start;
        _disputeWindow = windows_.dispute;
        _verdictWindow = windows_.verdict;
        _disableInitializers();
    }

    /// @param admin May upgrade this contract, set the fee, and pause
    function initialize(address admin, uint16 initialFeeBps) external initializer {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(PAUSER_ROLE, admin);
        _setFee(initialFeeBps);
    }

    // ------------------------------------------------------------------ renter

    /// @inheritdoc IMarketplace
    function createJob(bytes32 resourceId, bytes32 imageCid, uint256 estimatedDuration)
        external
        nonReentrant
        whenNotPaused
        returns (bytes32 jobId)
    {
        (IResourceRegistry.Terms memory terms, uint8 reclaimHours) = registry.termsFor(resourceId, msg.sender);
        uint40 duration = uint40(Math.min(estimatedDuration, type(uint40).max));
        _checkTerms(resourceId, duration, terms);
        return _create(JobStatus.Created, resourceId, imageCid, duration, "", terms, reclaimHours);
    }

    /// @inheritdoc IMarketplace
    function createJob(JobRequest calldata request) external nonReentrant whenNotPaused returns (bytes32 jobId) {
        (IResourceRegistry.Terms memory terms, uint8 reclaimHours) = registry.termsFor(request.resourceId, msg.sender);
        return _createRequested(JobStatus.Created, request, terms, reclaimHours);
    }

    /// @inheritdoc IMarketplace
    function createJobWithPermit(JobRequest calldata request, Permit calldata permit)
        external
        nonReentrant
        whenNotPaused
        returns (bytes32 jobId)
    {
        (IResourceRegistry.Terms memory terms, uint8 reclaimHours) = registry.termsFor(request.resourceId, msg.sender);
        // A permit that somebody submitted first has done its work: only the allowance counts.
        try IERC20Permit(terms.paymentToken)
            .permit(msg.sender, address(escrow), permit.value, permit.deadline, permit.v, permit.r, permit.s) {}
            catch {}
        return _createRequested(JobStatus.Created, request, terms, reclaimHours);
    }

    /// @inheritdoc IMarketplace
    function createJobFromOffer(
        JobRequest calldata request,
        IResourceRegistry.Offer calldata offer,
        bytes calldata signature,
        bytes32[] calldata proof
    ) external nonReentrant whenNotPaused returns (bytes32 jobId) {
        if (offer.resourceId != request.resourceId) {
            revert ResourceUnavailable(request.resourceId);
        }
        (IResourceRegistry.Terms memory terms, uint8 reclaimHours) =
            registry.offeredTerms(offer, signature, msg.sender, proof);
        (address provider, uint32 number) = _split(request.resourceId);
        _checkBond(provider, number);
        jobId = _createRequested(JobStatus.Accepted, request, terms, reclaimHours);
    }

    /// @inheritdoc IMarketplace
    function cancelJob(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, JobStatus.Created);
        _onlyRenter(jobId);
        _cancel(jobId, job, EndReason.RenterCancelled);
    }

    /// @inheritdoc IMarketplace
    function stopJob(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        _onlyRenter(jobId);
        _complete(jobId, job, _memoOf(jobId), EndReason.RenterStopped, bytes32(0), type(uint40).max, true);
    }

    /// @inheritdoc IMarketplace
    function extendJob(bytes32 jobId, uint40 extraSeconds) external nonReentrant {
        _extend(jobId, _inStatus(jobId, JobStatus.Running), extraSeconds, msg.sender);
    }

    /// @inheritdoc IMarketplace
    function setAutoRenew(bytes32 jobId, uint40 stepSeconds, uint40 until, uint128 maxPricePerHour) external {
        JobRecord storage job = _storage().jobs[jobId];
        if (!_isActive(jobId)) revert JobStatusInvalid(jobId, job.status);
        _onlyRenter(jobId);
        if (stepSeconds > type(uint32).max) revert DurationOutOfRange(stepSeconds, 0, type(uint32).max);
        if (job.pricePerHour > maxPricePerHour) revert PriceAboveMaximum(job.pricePerHour, maxPricePerHour);

        _storage().renewals[jobId] = Renewal(uint32(stepSeconds), until);
        emit AutoRenewSet(jobId, stepSeconds, until);
    }

    /// @inheritdoc IMarketplace
    function renewJob(bytes32 jobId) external nonReentrant {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        Renewal memory renewal = _storage().renewals[jobId];
        uint40 endsAt = job.startedAt + job.duration;
        if (renewal.stepSeconds == 0 || endsAt + renewal.stepSeconds > renewal.until) revert RenewalNotAllowed(jobId);
        if (block.timestamp + RENEWAL_LEAD < endsAt) revert JobDeadlineNotReached(jobId, endsAt - RENEWAL_LEAD);
        (address user,,) = escrow.partiesOf(jobId);
        _extend(jobId, job, renewal.stepSeconds, user);
    }

    // ---------------------------------------------------------------- provider

    /// @inheritdoc IMarketplace
    function acceptJob(bytes32 jobId) external {
        _accept(jobId, JobStatus.Accepted);
    }

    /// @inheritdoc IMarketplace
    function startJob(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, JobStatus.Accepted);
        _onlyProvider(jobId);
        _before(jobId, job.since + _startWindow);

        _moveTo(job, JobStatus.Running);
        job.startedAt = uint40(block.timestamp);
        emit JobStarted(jobId, uint40(block.timestamp));
    }

    /// @inheritdoc IMarketplace
    function acceptAndStartJob(bytes32 jobId) external {
        JobRecord storage job = _accept(jobId, JobStatus.Running);
        job.startedAt = uint40(block.timestamp);
        emit JobStarted(jobId, uint40(block.timestamp));
    }

    /// @inheritdoc IMarketplace
    function reclaimJob(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        uint64 memo = _onlyProvider(jobId);
        uint40 notice = uint40(memo >> 56) * 1 hours;
        uint40 reclaimAt = uint40(block.timestamp) + notice;
        Course memory course = _courseOf(job);
        if (notice == 0 || course.reclaimAt != 0 || reclaimAt >= _clockAt(job, course, type(uint40).max)) {
            revert ReclaimNotAllowed(jobId);
        }

        course.reclaimAt = reclaimAt;
        _setCourse(job, course);
        emit ReclaimNoticed(jobId, reclaimAt);
    }

    /// @inheritdoc IMarketplace
    function completeJob(bytes32 jobId) external {
        _completeByProvider(jobId, bytes32(0), type(uint40).max, _disputeWindow == 0);
    }

    /// @inheritdoc IMarketplace
    function completeJob(bytes32 jobId, bytes32 resultCid) external {
        _completeByProvider(jobId, resultCid, type(uint40).max, _disputeWindow == 0);
    }

    /// @inheritdoc IMarketplace
    function completeJobWithReceipt(bytes32 jobId, bytes32 resultCid, uint40 maxSeconds, bytes calldata signature)
        external
    {
        (address user,) = escrow.lockOf(jobId);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(RECEIPT_TYPEHASH, jobId, resultCid, maxSeconds)));
        if (!SignatureChecker.isValidSignatureNowCalldata(user, digest, signature)) {
            revert ReceiptSignatureInvalid(jobId);
        }
        _completeByProvider(jobId, resultCid, maxSeconds, true);
    }

    // ----------------------------------------------------------- either party

    /// @inheritdoc IMarketplace
    function disputeJob(bytes32 jobId, string calldata reason) external {
        // Check
        if (bytes(reason).length > MAX_REASON_BYTES) {
            revert DisputeReasonTooLong(bytes(reason).length, MAX_REASON_BYTES);
        }
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        (address user, address provider, uint64 memo) = escrow.partiesOf(jobId);
        if (status == JobStatus.Completed && job.flags & PAID == 0) {
            if (msg.sender != user) revert JobCallerUnauthorized(jobId, msg.sender);
            _before(jobId, job.since + _disputeWindow);
        } else if (status == JobStatus.Accepted || status == JobStatus.Running) {
            if (msg.sender != user && msg.sender != provider) revert JobCallerUnauthorized(jobId, msg.sender);
        } else {
            revert JobStatusInvalid(jobId, status);
        }

        // Effect
        Course memory course = _courseOf(job);
        uint40 endedAt = _clockAt(job, course, status == JobStatus.Completed ? job.since : uint40(block.timestamp));
        course.endedAt = endedAt;
        _setCourse(job, course);
        _moveTo(job, JobStatus.Disputed);
        uint96 contested = _due(job, _billable(job, course, endedAt, memo));
        emit JobDisputed(jobId, msg.sender, reason, contested);

        // Interaction
        escrow.refundAbove(jobId, contested);
    }

    /// @inheritdoc IMarketplace
    function submitEvidence(bytes32 jobId, bytes32 evidenceCid) external {
        _inStatus(jobId, JobStatus.Disputed);
        (address user, address provider,) = escrow.partiesOf(jobId);
        if (msg.sender != user && msg.sender != provider) revert JobCallerUnauthorized(jobId, msg.sender);
        emit EvidenceSubmitted(jobId, msg.sender, evidenceCid);
    }

    // ------------------------------------------------------------------ anyone

    /// @inheritdoc IMarketplace
    function expireJob(bytes32 jobId) public {
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        if (status == JobStatus.Created) {
            _after(jobId, job.since + _acceptWindow);
            _cancel(jobId, job, EndReason.NotAccepted);
        } else if (status == JobStatus.Accepted) {
            _after(jobId, job.since + _startWindow);
            address provider = _cancel(jobId, job, EndReason.NotStarted);
            _record(jobId, provider, IReputationSystem.JobOutcome.NotStarted);
        } else {
            revert JobStatusInvalid(jobId, status);
        }
    }

    /// @inheritdoc IMarketplace
    function endJob(bytes32 jobId) public {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        Course memory course = _courseOf(job);
        if (course.deadAt == 0) _after(jobId, _clockAt(job, course, type(uint40).max));
        EndReason reason = course.reclaimAt == 0 ? EndReason.TimeOver : EndReason.Reclaimed;
        _complete(jobId, job, _memoOf(jobId), reason, bytes32(0), type(uint40).max, _disputeWindow == 0);
    }

    /// @inheritdoc IMarketplace
    function settleJob(bytes32 jobId) public {
        _settle(jobId, true);
    }

    /// @inheritdoc IMarketplace
    function settleBatch(bytes32[] calldata jobIds) external returns (uint256 settled) {
        for (uint256 i = 0; i < jobIds.length; ++i) {
            if (_settle(jobIds[i], false)) ++settled;
        }
    }

    /// @inheritdoc IMarketplace
    function expireBatch(bytes32[] calldata jobIds) external returns (uint256 executed) {
        for (uint256 i = 0; i < jobIds.length; ++i) {
            Deadline memory due = nextDeadline(jobIds[i]);
            if (due.selector == bytes4(0) || block.timestamp < due.timestamp) continue;
            if (due.selector == this.expireJob.selector) expireJob(jobIds[i]);
            else if (due.selector == this.endJob.selector) endJob(jobIds[i]);
            else if (due.selector == this.settleJob.selector) settleJob(jobIds[i]);
            else resolveByTimeout(jobIds[i]);
            ++executed;
        }
    }

    /// @inheritdoc IMarketplace
    function resolveByTimeout(bytes32 jobId) public {
        JobRecord storage job = _inStatus(jobId, JobStatus.Disputed);
        _after(jobId, job.since + _verdictWindow);
        _resolve(jobId, job, Verdict.SplitPayment, true);
    }

    /// @inheritdoc IMarketplace
    function recordReputation(bytes32 jobId) external {
        uint8 outcome = _storage().unrecorded[jobId];
        if (outcome == 0) revert NothingToRecord(jobId);

        _storage().unrecorded[jobId] = 0;
        (address provider,) = escrow.hostOf(jobId);
        reputationSystem.recordJob(provider, IReputationSystem.JobOutcome(outcome - 1));
    }

    // ---------------------------------------------------------- committee only

    /// @inheritdoc IMarketplace
    /// @dev Only the part after the last recorded outage, and inside the time the clock ran, counts: nothing is taken off twice.
    function recordOutage(bytes32 jobId, uint40 from, uint40 to) external onlyCommittee(jobId) {
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        bool unpaid = status == JobStatus.Completed && job.flags & PAID == 0;
        if (status != JobStatus.Running && status != JobStatus.Disputed && !unpaid) {
            revert JobStatusInvalid(jobId, status);
        }

        Course memory course = _courseOf(job);
        uint256 start = Math.max(from, Math.max(job.startedAt, course.outageEnd));
        uint256 stop =
            status == JobStatus.Running ? _clockAt(job, course, uint40(block.timestamp)) : _endOf(job, course);
        uint256 end = Math.min(to, stop);
        if (job.startedAt == 0 || start >= end) revert OutageInvalid(jobId, from, to);

        course.outageSeconds += uint32(end - start);
        course.outageEnd = uint40(end);
        _setCourse(job, course);
        emit OutageRecorded(jobId, uint40(start), uint40(end));
    }

    /// @inheritdoc IMarketplace
    function recordDeath(bytes32 jobId, uint40 timestamp) external onlyCommittee(jobId) {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        Course memory course = _courseOf(job);
        if (course.deadAt != 0 || timestamp > block.timestamp) revert OutageInvalid(jobId, timestamp, 0);

        uint40 deadAt = uint40(Math.max(timestamp, job.startedAt));
        course.deadAt = deadAt;
        _setCourse(job, course);
        emit DeathRecorded(jobId, deadAt);
    }

    /// @inheritdoc IMarketplace
    function resolveDispute(bytes32 jobId, Verdict verdict) external onlyCommittee(jobId) {
        _resolve(jobId, _inStatus(jobId, JobStatus.Disputed), verdict, false);
    }

    // ------------------------------------------------------------------- admin

    /// @inheritdoc IMarketplace
    function setFee(uint16 newFeeBps) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setFee(newFeeBps);
    }

    /// @inheritdoc IMarketplace
    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }

    // ------------------------------------------------------------------- views

    /// @dev A job nobody created has status None and zeros.
    function getJob(bytes32 jobId) external view returns (Job memory) {
        JobRecord storage job = _storage().jobs[jobId];
        Course memory course = _courseOf(job);
        IPaymentEscrow.EscrowRecord memory record = escrow.escrows(jobId);
        uint64 memo = _memoOf(jobId);
        return Job({
            jobId: jobId,
            user: record.user,
            provider: record.provider,
            resourceId: bytes32((uint256(uint160(record.provider)) << 96) | uint24(memo >> 32)),
            paymentToken: record.token,
            status: job.status,
            since: job.since,
            startedAt: job.startedAt,
            endedAt: _endOf(job, course),
            duration: job.duration,
            outageSeconds: course.outageSeconds,
            minSeconds: uint32(memo),
            settledSeconds: job.settledSeconds,
            deadAt: course.deadAt,
            pricePerHour: job.pricePerHour,
            lockedAmount: record.lockedAmount
        });
    }

    /// @inheritdoc IMarketplace
    function nextDeadline(bytes32 jobId) public view returns (Deadline memory) {
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        uint40 since = job.since;
        if (status == JobStatus.Created) return Deadline(this.expireJob.selector, since + _acceptWindow);
        if (status == JobStatus.Accepted) return Deadline(this.expireJob.selector, since + _startWindow);
        if (status == JobStatus.Running) {
            return Deadline(this.endJob.selector, _clockAt(job, _courseOf(job), type(uint40).max));
        }
        if (status == JobStatus.Completed && job.flags & PAID == 0) {
            return Deadline(this.settleJob.selector, since + _disputeWindow);
        }
        if (status == JobStatus.Disputed) return Deadline(this.resolveByTimeout.selector, since + _verdictWindow);
        return Deadline(bytes4(0), 0);
    }

    function windows() external view returns (Windows memory) {
        return Windows(_acceptWindow, _startWindow, _disputeWindow, _verdictWindow);
    }

    function feeBps() external view returns (uint16) {
        return _storage().feeBps;
    }

    /// @inheritdoc IMarketplace
    function activeJobOf(bytes32 resourceId) external view returns (bytes32 jobId) {
        jobId = _storage().lastJobOf[resourceId];
        if (!_isActive(jobId)) return bytes32(0);
    }

    /// @inheritdoc IMarketplace
    function billableSeconds(bytes32 jobId, uint40 timestamp) external view returns (uint40) {
        JobRecord storage job = _storage().jobs[jobId];
        Course memory course = _courseOf(job);
        return _billable(job, course, _clockAt(job, course, timestamp), _memoOf(jobId));
    }

    /// @inheritdoc IMarketplace
    function computeJobId(
        bytes32 previousJobId,
        address user,
        bytes32 resourceId,
        bytes32 imageCid,
        uint40 duration,
        uint128 pricePerHour,
        bytes32 specHash
    ) public view returns (bytes32) {
        return keccak256(
            abi.encode(
                block.chainid,
                address(this),
                previousJobId,
                user,
                resourceId,
                imageCid,
                duration,
                pricePerHour,
                specHash
            )
        );
    }

    // ------------------------------------------------------- private: creation

    function _createRequested(
        JobStatus status,
        JobRequest calldata request,
        IResourceRegistry.Terms memory terms,
        uint8 reclaimHours
    ) private returns (bytes32) {
        if (terms.pricePerHour > request.maxPricePerHour) {
            revert PriceAboveMaximum(terms.pricePerHour, request.maxPricePerHour);
        }
        if (request.paymentToken != terms.paymentToken) {
            revert PaymentTokenMismatch(terms.paymentToken, request.paymentToken);
        }
        if (request.spec.length > MAX_SPEC_BYTES) revert SpecTooLarge(request.spec.length, MAX_SPEC_BYTES);
        _checkTerms(request.resourceId, request.duration, terms);
        return
            _create(status, request.resourceId, request.imageCid, request.duration, request.spec, terms, reclaimHours);
    }

    function _checkTerms(bytes32 resourceId, uint40 duration, IResourceRegistry.Terms memory terms) private pure {
        if (!terms.available) revert ResourceUnavailable(resourceId);
        if (duration < terms.minSeconds || duration > terms.maxSeconds) {
            revert DurationOutOfRange(duration, terms.minSeconds, terms.maxSeconds);
        }
    }

    /// @param status Created, or Accepted where the provider's signature says so already
    function _create(
        JobStatus status,
        bytes32 resourceId,
        bytes32 imageCid,
        uint40 duration,
        bytes memory spec,
        IResourceRegistry.Terms memory terms,
        uint8 reclaimHours
    ) private returns (bytes32 jobId) {
        // Check
        Storage storage $ = _storage();
        bytes32 previous = $.lastJobOf[resourceId];
        if (_isActive(previous)) revert ResourceBusy(resourceId, previous);
        uint128 price = terms.pricePerHour;
        uint96 maxCost = _toAmount(Settlement.lockUp(price, duration));
        uint96 storedPrice = _toAmount(price);

        // Effect
        jobId = computeJobId(previous, msg.sender, resourceId, imageCid, duration, price, keccak256(spec));
        $.lastJobOf[resourceId] = jobId;
        JobRecord storage job = $.jobs[jobId];
        job.status = status;
        job.since = uint40(block.timestamp);
        job.duration = uint32(duration); // `maxSeconds` has 32 bits
        job.pricePerHour = storedPrice;
        (address provider, uint32 number) = _split(resourceId);
        emit JobCreated(jobId, msg.sender, resourceId, imageCid, price, duration, maxCost, spec);
        if (status == JobStatus.Accepted) emit JobAccepted(jobId, provider);

        // Interaction
        uint64 memo = (uint64(reclaimHours) << 56) | (uint64(number) << 32) | terms.minSeconds;
        escrow.lockFunds(jobId, terms.paymentToken, maxCost, msg.sender, provider, $.feeBps, memo);
    }

    /// @dev Provider and number of a resource; the registry counts in 24 bits.
    function _split(bytes32 resourceId) private pure returns (address provider, uint32 number) {
        return (address(uint160(uint256(resourceId) >> 96)), uint24(uint256(resourceId)));
    }

    function _checkBond(address provider, uint32 number) private view {
        if (stakeVault.isBonded(provider, number)) return;
        revert ProviderStakeTooLow(provider, stakeVault.stakeOf(provider).active, stakeVault.requiredStake(number));
    }

    function _accept(bytes32 jobId, JobStatus next) private returns (JobRecord storage job) {
        job = _inStatus(jobId, JobStatus.Created);
        uint64 memo = _onlyProvider(jobId);
        _before(jobId, job.since + _acceptWindow);
        _checkBond(msg.sender, uint24(memo >> 32));

        _moveTo(job, next);
        emit JobAccepted(jobId, msg.sender);
    }

    function _extend(bytes32 jobId, JobRecord storage job, uint40 extraSeconds, address payer) private {
        // Check
        uint32 duration = job.duration;
        Course memory course = _courseOf(job);
        uint40 endsAt = _clockAt(job, course, type(uint40).max);
        if (course.reclaimAt != 0 || block.timestamp >= endsAt) revert JobDeadlinePassed(jobId, endsAt);
        uint40 room = type(uint32).max - duration;
        if (extraSeconds == 0 || extraSeconds > room) revert DurationOutOfRange(extraSeconds, 1, room);
        uint96 amount = _toAmount(Settlement.lockUp(job.pricePerHour, extraSeconds));

        // Effect
        duration += uint32(extraSeconds);
        job.duration = duration;
        emit JobExtended(jobId, payer, duration, amount);

        // Interaction
        escrow.addFunds(jobId, amount, payer);
    }

    // --------------------------------------------------------- private: ending

    function _cancel(bytes32 jobId, JobRecord storage job, EndReason reason) private returns (address provider) {
        _moveTo(job, JobStatus.Cancelled);
        emit JobCancelled(jobId, reason);
        return escrow.releaseFunds(jobId, 0);
    }

    function _completeByProvider(bytes32 jobId, bytes32 resultCid, uint40 maxSeconds, bool consented) private {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        uint64 memo = _onlyProvider(jobId);
        _complete(jobId, job, memo, EndReason.ProviderCompleted, resultCid, maxSeconds, consented);
    }

    /// @dev Once the host is reported dead the job ends as that, whoever ends it, and the minimum is not billed.
    /// @param consented The renter agrees, or nobody has to: the provider's share is paid now
    function _complete(
        bytes32 jobId,
        JobRecord storage job,
        uint64 memo,
        EndReason reason,
        bytes32 resultCid,
        uint40 maxSeconds,
        bool consented
    ) private {
        Course memory course = _courseOf(job);
        if (course.deadAt != 0) reason = EndReason.ProviderDead;
        uint40 endedAt = _clockAt(job, course, uint40(block.timestamp));
        uint40 billed = uint40(Math.min(_billable(job, course, endedAt, memo), maxSeconds));
        (uint96 price, uint32 settled) = (job.pricePerHour, job.settledSeconds);
        emit JobCompleted(jobId, reason, billed, uint96(Settlement.cost(price, Math.max(billed, settled))), resultCid);

        if (consented) {
            _pay(jobId, job, course, billed);
        } else {
            uint96 due = _due(job, billed);
            _moveTo(job, JobStatus.Completed);
            escrow.refundAbove(jobId, due);
        }
    }

    /// @dev The last payment of a completed job: what is due to the provider, anything else back to the renter.
    function _pay(bytes32 jobId, JobRecord storage job, Course memory course, uint40 billed) private {
        uint96 due = _due(job, billed);
        uint32 settled = uint32(Math.max(billed, job.settledSeconds));
        if (job.status != JobStatus.Completed) _moveTo(job, JobStatus.Completed);
        job.flags |= PAID;
        job.settledSeconds = settled;
        emit JobSettled(jobId, settled, due);
        address provider = escrow.releaseFunds(jobId, due);
        _record(
            jobId,
            provider,
            course.deadAt == 0 ? IReputationSystem.JobOutcome.Completed : IReputationSystem.JobOutcome.ProviderDied
        );
    }

    /// @param strict Revert with the reason where there is nothing to do
    function _settle(bytes32 jobId, bool strict) private returns (bool) {
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        if (status == JobStatus.Running) {
            if (_settleRunning(jobId, job)) return true;
            if (strict) revert NothingToSettle(jobId);
            return false;
        }
        if (status != JobStatus.Completed) {
            if (strict) revert JobStatusInvalid(jobId, status);
            return false;
        }
        if (job.flags & PAID != 0) {
            if (strict) revert NothingToSettle(jobId);
            return false;
        }
        uint40 deadline = job.since + _disputeWindow;
        if (block.timestamp < deadline) {
            if (strict) revert JobDeadlineNotReached(jobId, deadline);
            return false;
        }
        Course memory course = _courseOf(job);
        _pay(jobId, job, course, _billable(job, course, _endOf(job, course), _memoOf(jobId)));
        return true;
    }

    /// @dev Proven time only: the minimum is due when the job ends.
    function _settleRunning(bytes32 jobId, JobRecord storage job) private returns (bool) {
        Course memory course = _courseOf(job);
        uint40 billed = _billable(job, course, _clockAt(job, course, uint40(block.timestamp)), 0);
        uint96 due = _due(job, billed);
        if (due == 0) return false;

        job.settledSeconds = uint32(billed);
        emit JobSettled(jobId, billed, due);
        escrow.partialRelease(jobId, due);
        return true;
    }

    /// @dev A reputation system that fails must not hold money back: what it missed is kept for `recordReputation`.
    function _record(bytes32 jobId, address provider, IReputationSystem.JobOutcome outcome) private {
        // Else whoever pays for the gas could choose that it fails.
        if (gasleft() < RECORD_GAS + RECORD_GAS / 32) revert GasTooLow();
        try reputationSystem.recordJob{gas: RECORD_GAS}(provider, outcome) {}
        catch {
            _storage().unrecorded[jobId] = uint8(outcome) + 1;
            emit ReputationUnrecorded(jobId, provider, uint8(outcome));
        }
    }

    function _resolve(bytes32 jobId, JobRecord storage job, Verdict verdict, bool byTimeout) private {
        Course memory course = _courseOf(job);
        uint256 toProvider = _due(job, _billable(job, course, course.endedAt, _memoOf(jobId)));
        IReputationSystem.JobOutcome outcome = IReputationSystem.JobOutcome.Completed;
        if (verdict == Verdict.ProviderFault) {
            toProvider = 0;
            outcome = IReputationSystem.JobOutcome.DisputeLost;
        } else if (verdict == Verdict.SplitPayment) {
            (toProvider,) = Settlement.split(toProvider);
            outcome = IReputationSystem.JobOutcome.DisputeSplit;
        }

        _moveTo(job, JobStatus.Resolved);
        emit JobResolved(jobId, verdict, byTimeout);
        address provider = escrow.releaseFunds(jobId, uint96(toProvider));
        _record(jobId, provider, outcome);
    }

    // ---------------------------------------------------------- private: rules

    function _moveTo(JobRecord storage job, JobStatus status) private {
        job.status = status;
        job.since = uint40(block.timestamp);
    }

    function _isActive(bytes32 jobId) private view returns (bool) {
        JobStatus status = _storage().jobs[jobId].status;
        return status == JobStatus.Created || status == JobStatus.Accepted || status == JobStatus.Running;
    }

    function _courseOf(JobRecord storage job) private view returns (Course memory course) {
        if (job.flags & COURSE != 0) course = job.course;
    }

    function _setCourse(JobRecord storage job, Course memory course) private {
        job.flags |= COURSE;
        job.course = course;
    }

    /// @dev Where the clock stands at `timestamp`: never past the paid time, the end of a notice, nor the last proof of life. Zero if
    /// not started.
    function _clockAt(JobRecord storage job, Course memory course, uint40 timestamp) private view returns (uint40) {
        uint40 startedAt = job.startedAt;
        if (startedAt == 0) return 0;
        uint256 stop = Math.min(timestamp, uint256(startedAt) + job.duration);
        if (course.reclaimAt != 0) stop = Math.min(stop, course.reclaimAt);
        if (course.deadAt != 0) stop = Math.min(stop, course.deadAt);
        return uint40(stop);
    }

    /// @dev When the clock stopped; zero while it may run, and if it never did.
    function _endOf(JobRecord storage job, Course memory course) private view returns (uint40) {
        JobStatus status = job.status;
        if (status == JobStatus.Completed) return _clockAt(job, course, job.since);
        return course.endedAt;
    }

    /// @param memo Its low 32 bits: the minimum to bill, unless the host died or took the machine back
    function _billable(JobRecord storage job, Course memory course, uint40 endedAt, uint64 memo)
        private
        view
        returns (uint40)
    {
        uint32 minSeconds = course.deadAt == 0 && course.reclaimAt == 0 ? uint32(memo) : 0;
        return
            uint40(Settlement.billableSeconds(job.startedAt, endedAt, course.outageSeconds, minSeconds, job.duration));
    }

    function _due(JobRecord storage job, uint40 billed) private view returns (uint96) {
        return uint96(Settlement.accrued(job.pricePerHour, billed, job.settledSeconds)); // below the uint96 lock
    }

    function _toAmount(uint256 amount) private pure returns (uint96) {
        if (amount > type(uint96).max) revert IPaymentEscrow.AmountTooLarge(amount);
        return uint96(amount);
    }

    function _setFee(uint16 newFeeBps) private {
        uint16 maximum = escrow.MAX_FEE_BPS();
        if (newFeeBps > maximum) revert FeeTooHigh(newFeeBps, maximum);
        _storage().feeBps = newFeeBps;
        emit FeeUpdated(newFeeBps);
    }

    function _inStatus(bytes32 jobId, JobStatus status) private view returns (JobRecord storage job) {
        job = _storage().jobs[jobId];
        if (job.status != status) revert JobStatusInvalid(jobId, job.status);
    }

    function _onlyRenter(bytes32 jobId) private view {
        (address user,) = escrow.lockOf(jobId);
        if (msg.sender != user) revert JobCallerUnauthorized(jobId, msg.sender);
    }

    function _onlyProvider(bytes32 jobId) private view returns (uint64 memo) {
        address provider;
        (provider, memo) = escrow.hostOf(jobId);
        if (msg.sender != provider) revert JobCallerUnauthorized(jobId, msg.sender);
    }

    function _memoOf(bytes32 jobId) private view returns (uint64 memo) {
        (, memo) = escrow.hostOf(jobId);
    }

    function _before(bytes32 jobId, uint40 deadline) private view {
        if (block.timestamp >= deadline) revert JobDeadlinePassed(jobId, deadline);
    }

    function _after(bytes32 jobId, uint40 deadline) private view {
        if (block.timestamp < deadline) revert JobDeadlineNotReached(jobId, deadline);
    }

    function _storage() private pure returns (Storage storage $) {
        bytes32 slot = STORAGE_SLOT;
        assembly ("memory-safe") {
            $.slot := slot
        }
    }

    function _EIP712Name() internal pure override returns (string memory) {
        return "gpumarket";
    }

    function _EIP712Version() internal pure override returns (string memory) {
        return "1";
    }

    function _authorizeUpgrade(address) internal override onlyRole(DEFAULT_ADMIN_ROLE) {}
}
