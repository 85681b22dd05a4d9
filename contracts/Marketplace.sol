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
        // slot 0
        JobStatus status;
        uint40 since;
        uint40 startedAt;
        uint40 endedAt;
        uint40 duration;
        uint32 outageSeconds;
        uint32 minSeconds;
        uint16 flags;
        // slot 1
        uint128 pricePerHour;
        uint40 settledSeconds;
        uint40 deadAt;
        uint32 resourceNumber;
        // slot 2, only after an outage
        uint40 outageEnd;
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
    }

    bytes32 private constant STORAGE_SLOT =
        keccak256(abi.encode(uint256(keccak256("gpumarket.storage.Marketplace")) - 1)) & ~bytes32(uint256(0xff));
    bytes32 private constant RECEIPT_TYPEHASH = keccak256("Receipt(bytes32 jobId,bytes32 resultCid,uint40 maxSeconds)");

    /// @dev Completed, and the provider's share is paid.
    uint16 private constant PAID = 1;

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
        __EIP712_init("gpumarket", "1");
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
        IResourceRegistry.Terms memory terms = registry.termsOf(resourceId);
        uint40 duration = uint40(Math.min(estimatedDuration, type(uint40).max));
        _checkTerms(resourceId, duration, terms);
        return _create(resourceId, imageCid, duration, "", terms);
    }

    /// @inheritdoc IMarketplace
    function createJob(JobRequest calldata request) external nonReentrant whenNotPaused returns (bytes32 jobId) {
        IResourceRegistry.Terms memory terms = _checkRequest(request);
        return _create(request.resourceId, request.imageCid, request.duration, request.spec, terms);
    }

    /// @inheritdoc IMarketplace
    function createJobWithPermit(JobRequest calldata request, Permit calldata permit)
        external
        nonReentrant
        whenNotPaused
        returns (bytes32 jobId)
    {
        IResourceRegistry.Terms memory terms = _checkRequest(request);
        // A permit that somebody submitted first has done its work: only the allowance counts.
        try IERC20Permit(terms.paymentToken)
            .permit(msg.sender, address(escrow), permit.value, permit.deadline, permit.v, permit.r, permit.s) {}
            catch {}
        return _create(request.resourceId, request.imageCid, request.duration, request.spec, terms);
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
        _complete(jobId, job, EndReason.RenterStopped, bytes32(0), type(uint40).max, true);
    }

    /// @inheritdoc IMarketplace
    function extendJob(bytes32 jobId, uint40 extraSeconds) external nonReentrant {
        // Check
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        (uint40 startedAt, uint40 duration) = (job.startedAt, job.duration);
        uint40 endsAt = job.deadAt == 0 ? startedAt + duration : job.deadAt;
        if (block.timestamp >= endsAt) revert JobDeadlinePassed(jobId, endsAt);
        uint40 room = type(uint40).max - endsAt;
        if (extraSeconds == 0 || extraSeconds > room) revert DurationOutOfRange(extraSeconds, 1, room);
        uint96 amount = _toAmount(Settlement.lockUp(job.pricePerHour, extraSeconds));

        // Effect
        job.duration = duration + extraSeconds;
        emit JobExtended(jobId, msg.sender, duration + extraSeconds, amount);

        // Interaction
        escrow.addFunds(jobId, amount, msg.sender);
    }

    // ---------------------------------------------------------------- provider

    /// @inheritdoc IMarketplace
    function acceptJob(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, JobStatus.Created);
        _onlyProvider(jobId);
        _before(jobId, job.since + _acceptWindow);
        uint256 staked = stakeVault.stakeOf(msg.sender).active;
        uint256 required = stakeVault.requiredStake(job.resourceNumber);
        if (staked < required) revert ProviderStakeTooLow(msg.sender, staked, required);

        _moveTo(job, JobStatus.Accepted);
        emit JobAccepted(jobId, msg.sender);
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
        (address user, uint96 locked) = escrow.lockOf(jobId);
        if (status == JobStatus.Completed && job.flags & PAID == 0) {
            if (msg.sender != user) revert JobCallerUnauthorized(jobId, msg.sender);
            _before(jobId, job.since + _disputeWindow);
        } else if (status == JobStatus.Accepted || status == JobStatus.Running) {
            _onlyParty(jobId, user);
        } else {
            revert JobStatusInvalid(jobId, status);
        }

        // Effect
        _moveTo(job, JobStatus.Disputed);
        if (status != JobStatus.Completed) job.endedAt = _clockAt(job, uint40(block.timestamp));
        uint96 contested = _due(job, _billable(job, job.endedAt));
        emit JobDisputed(jobId, msg.sender, reason, contested);

        // Interaction
        if (locked > contested) escrow.refund(jobId, locked - contested);
    }

    /// @inheritdoc IMarketplace
    function submitEvidence(bytes32 jobId, bytes32 evidenceCid) external {
        _inStatus(jobId, JobStatus.Disputed);
        (address user,) = escrow.lockOf(jobId);
        _onlyParty(jobId, user);
        emit EvidenceSubmitted(jobId, msg.sender, evidenceCid);
    }

    // ------------------------------------------------------------------ anyone

    /// @inheritdoc IMarketplace
    function expireJob(bytes32 jobId) external {
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        if (status == JobStatus.Created) {
            _after(jobId, job.since + _acceptWindow);
            _cancel(jobId, job, EndReason.NotAccepted);
        } else if (status == JobStatus.Accepted) {
            _after(jobId, job.since + _startWindow);
            _cancel(jobId, job, EndReason.NotStarted);
            reputationSystem.recordJob(escrow.providerOf(jobId), IReputationSystem.JobOutcome.NotStarted);
        } else {
            revert JobStatusInvalid(jobId, status);
        }
    }

    /// @inheritdoc IMarketplace
    function endJob(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        if (job.deadAt == 0) _after(jobId, job.startedAt + job.duration);
        _complete(jobId, job, EndReason.TimeOver, bytes32(0), type(uint40).max, _disputeWindow == 0);
    }

    /// @inheritdoc IMarketplace
    function settleJob(bytes32 jobId) external {
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        if (status == JobStatus.Running) {
            _settleRunning(jobId, job);
        } else if (status == JobStatus.Completed) {
            if (job.flags & PAID != 0) revert NothingToSettle(jobId);
            _after(jobId, job.since + _disputeWindow);
            _pay(jobId, job, _billable(job, job.endedAt));
        } else {
            revert JobStatusInvalid(jobId, status);
        }
    }

    /// @inheritdoc IMarketplace
    function resolveByTimeout(bytes32 jobId) external {
        JobRecord storage job = _inStatus(jobId, JobStatus.Disputed);
        _after(jobId, job.since + _verdictWindow);
        _resolve(jobId, job, Verdict.SplitPayment, true);
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

        uint256 start = Math.max(from, Math.max(job.startedAt, job.outageEnd));
        uint256 end = Math.min(to, job.endedAt == 0 ? _clockAt(job, uint40(block.timestamp)) : job.endedAt);
        if (job.startedAt == 0 || start >= end) revert OutageInvalid(jobId, from, to);

        job.outageSeconds += uint32(end - start);
        job.outageEnd = uint40(end);
        emit OutageRecorded(jobId, uint40(start), uint40(end));
    }

    /// @inheritdoc IMarketplace
    function recordDeath(bytes32 jobId, uint40 timestamp) external onlyCommittee(jobId) {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        if (job.deadAt != 0 || timestamp > block.timestamp) revert OutageInvalid(jobId, timestamp, 0);

        uint40 deadAt = uint40(Math.max(timestamp, job.startedAt));
        job.deadAt = deadAt;
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
        JobRecord memory job = _storage().jobs[jobId];
        IPaymentEscrow.EscrowRecord memory record = escrow.escrows(jobId);
        return Job({
            jobId: jobId,
            user: record.user,
            provider: record.provider,
            resourceId: bytes32((uint256(uint160(record.provider)) << 96) | job.resourceNumber),
            paymentToken: record.token,
            status: job.status,
            since: job.since,
            startedAt: job.startedAt,
            endedAt: job.endedAt,
            duration: job.duration,
            outageSeconds: job.outageSeconds,
            minSeconds: job.minSeconds,
            settledSeconds: job.settledSeconds,
            deadAt: job.deadAt,
            pricePerHour: job.pricePerHour,
            lockedAmount: record.lockedAmount
        });
    }

    /// @inheritdoc IMarketplace
    function nextDeadline(bytes32 jobId) external view returns (Deadline memory) {
        JobRecord storage job = _storage().jobs[jobId];
        JobStatus status = job.status;
        uint40 since = job.since;
        if (status == JobStatus.Created) return Deadline(this.expireJob.selector, since + _acceptWindow);
        if (status == JobStatus.Accepted) return Deadline(this.expireJob.selector, since + _startWindow);
        if (status == JobStatus.Running) {
            return Deadline(this.endJob.selector, job.deadAt == 0 ? job.startedAt + job.duration : job.deadAt);
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
        return _billable(job, _clockAt(job, timestamp));
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

    function _checkRequest(JobRequest calldata request) private view returns (IResourceRegistry.Terms memory terms) {
        terms = registry.termsOf(request.resourceId);
        if (terms.pricePerHour > request.maxPricePerHour) {
            revert PriceAboveMaximum(terms.pricePerHour, request.maxPricePerHour);
        }
        if (request.paymentToken != terms.paymentToken) {
            revert PaymentTokenMismatch(terms.paymentToken, request.paymentToken);
        }
        if (request.spec.length > MAX_SPEC_BYTES) revert SpecTooLarge(request.spec.length, MAX_SPEC_BYTES);
        _checkTerms(request.resourceId, request.duration, terms);
    }

    function _checkTerms(bytes32 resourceId, uint40 duration, IResourceRegistry.Terms memory terms) private pure {
        if (!terms.available) revert ResourceUnavailable(resourceId);
        if (duration < terms.minSeconds || duration > terms.maxSeconds) {
            revert DurationOutOfRange(duration, terms.minSeconds, terms.maxSeconds);
        }
    }

    function _create(
        bytes32 resourceId,
        bytes32 imageCid,
        uint40 duration,
        bytes memory spec,
        IResourceRegistry.Terms memory terms
    ) private returns (bytes32 jobId) {
        // Check
        Storage storage $ = _storage();
        bytes32 previous = $.lastJobOf[resourceId];
        if (_isActive(previous)) revert ResourceBusy(resourceId, previous);
        uint128 price = terms.pricePerHour;
        uint96 maxCost = _toAmount(Settlement.lockUp(price, duration));

        // Effect
        jobId = computeJobId(previous, msg.sender, resourceId, imageCid, duration, price, keccak256(spec));
        $.lastJobOf[resourceId] = jobId;
        JobRecord storage job = $.jobs[jobId];
        job.status = JobStatus.Created;
        job.since = uint40(block.timestamp);
        job.duration = duration;
        job.minSeconds = terms.minSeconds;
        job.pricePerHour = price;
        job.resourceNumber = uint32(uint256(resourceId)); // the registry counts in 32 bits
        emit JobCreated(jobId, msg.sender, resourceId, imageCid, price, duration, maxCost, spec);

        // Interaction
        address provider = address(uint160(uint256(resourceId) >> 96));
        escrow.lockFunds(jobId, terms.paymentToken, maxCost, msg.sender, provider, $.feeBps);
    }

    // --------------------------------------------------------- private: ending

    function _cancel(bytes32 jobId, JobRecord storage job, EndReason reason) private {
        _moveTo(job, JobStatus.Cancelled);
        emit JobCancelled(jobId, reason);
        escrow.releaseFunds(jobId, 0);
    }

    function _completeByProvider(bytes32 jobId, bytes32 resultCid, uint40 maxSeconds, bool consented) private {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        _onlyProvider(jobId);
        _complete(jobId, job, EndReason.ProviderCompleted, resultCid, maxSeconds, consented);
    }

    /// @dev Once the host is reported dead the job ends as that, whoever ends it, and the minimum is not billed.
    /// @param consented The renter agrees, or nobody has to: the provider's share is paid now
    function _complete(
        bytes32 jobId,
        JobRecord storage job,
        EndReason reason,
        bytes32 resultCid,
        uint40 maxSeconds,
        bool consented
    ) private {
        if (job.deadAt != 0) reason = EndReason.ProviderDead;
        uint40 endedAt = _clockAt(job, uint40(block.timestamp));
        _moveTo(job, JobStatus.Completed);
        job.endedAt = endedAt;
        uint40 billed = uint40(Math.min(_billable(job, endedAt), maxSeconds));
        uint256 total = Settlement.cost(job.pricePerHour, Math.max(billed, job.settledSeconds));
        emit JobCompleted(jobId, reason, billed, uint96(total), resultCid);

        if (consented) {
            _pay(jobId, job, billed);
        } else {
            (, uint96 locked) = escrow.lockOf(jobId);
            uint96 due = _due(job, billed);
            if (locked > due) escrow.refund(jobId, locked - due);
        }
    }

    /// @dev The last payment of a completed job: what is due to the provider, anything else back to the renter.
    function _pay(bytes32 jobId, JobRecord storage job, uint40 billed) private {
        uint96 due = _due(job, billed);
        job.flags |= PAID;
        if (billed > job.settledSeconds) job.settledSeconds = billed;
        emit JobSettled(jobId, job.settledSeconds, due);
        escrow.releaseFunds(jobId, due);
        reputationSystem.recordJob(
            escrow.providerOf(jobId),
            job.deadAt == 0 ? IReputationSystem.JobOutcome.Completed : IReputationSystem.JobOutcome.ProviderDied
        );
    }

    /// @dev Proven time only: the minimum is due when the job ends.
    function _settleRunning(bytes32 jobId, JobRecord storage job) private {
        uint40 now_ = _clockAt(job, uint40(block.timestamp));
        uint40 billed = uint40(Settlement.billableSeconds(job.startedAt, now_, job.outageSeconds, 0, job.duration));
        uint96 due = _due(job, billed);
        if (due == 0) revert NothingToSettle(jobId);

        job.settledSeconds = billed;
        emit JobSettled(jobId, billed, due);
        escrow.partialRelease(jobId, due);
    }

    function _resolve(bytes32 jobId, JobRecord storage job, Verdict verdict, bool byTimeout) private {
        uint256 toProvider = _due(job, _billable(job, job.endedAt));
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
        escrow.releaseFunds(jobId, uint96(toProvider));
        reputationSystem.recordJob(escrow.providerOf(jobId), outcome);
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

    /// @dev Where the clock stands at `timestamp`: never past the paid time, nor past the last proof of life. Zero if not started.
    function _clockAt(JobRecord storage job, uint40 timestamp) private view returns (uint40) {
        (uint40 startedAt, uint40 deadAt) = (job.startedAt, job.deadAt);
        if (startedAt == 0) return 0;
        uint256 stop = Math.min(timestamp, startedAt + job.duration);
        return uint40(deadAt == 0 ? stop : Math.min(stop, deadAt));
    }

    function _billable(JobRecord storage job, uint40 endedAt) private view returns (uint40) {
        uint32 minSeconds = job.deadAt == 0 ? job.minSeconds : 0;
        return uint40(Settlement.billableSeconds(job.startedAt, endedAt, job.outageSeconds, minSeconds, job.duration));
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

    function _onlyProvider(bytes32 jobId) private view {
        if (msg.sender != escrow.providerOf(jobId)) revert JobCallerUnauthorized(jobId, msg.sender);
    }

    function _onlyParty(bytes32 jobId, address user) private view {
        if (msg.sender != user) _onlyProvider(jobId);
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

    function _authorizeUpgrade(address) internal override onlyRole(DEFAULT_ADMIN_ROLE) {}
}
