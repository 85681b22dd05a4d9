// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControlUpgradeable} from "@openzeppelin/contracts-upgradeable/access/AccessControlUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {EIP712Upgradeable} from "@openzeppelin/contracts-upgradeable/utils/cryptography/EIP712Upgradeable.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {MarketBase} from "./MarketBase.sol";
import {MarketExceptions} from "./MarketExceptions.sol";
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
    MarketBase,
    AccessControlUpgradeable,
    PausableUpgradeable,
    EIP712Upgradeable,
    UUPSUpgradeable
{
    bytes32 private constant RECEIPT_TYPEHASH = keccak256("Receipt(bytes32 jobId,bytes32 resultCid,uint40 maxSeconds)");

    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");
    uint256 public constant MAX_SPEC_BYTES = 4096;
    uint16 public constant MAX_BOND_BPS = 2000;

    /// @dev The code of the calls at the end.
    address private immutable _exceptions;

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor(Contracts memory contracts, Windows memory windows_) MarketBase(contracts, windows_) {
        _exceptions = address(new MarketExceptions(contracts, windows_));
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

    // ------------------------------------------------------------------ anyone

    /// @inheritdoc IMarketplace
    function expireJob(bytes32 jobId) external {
        _expire(jobId);
    }

    /// @inheritdoc IMarketplace
    function endJob(bytes32 jobId) external {
        _end(jobId);
    }

    /// @inheritdoc IMarketplace
    function settleJob(bytes32 jobId) external {
        _settle(jobId, true);
    }

    /// @inheritdoc IMarketplace
    function settleBatch(bytes32[] calldata jobIds) external returns (uint256 settled) {
        for (uint256 i = 0; i < jobIds.length; ++i) {
            if (_settle(jobIds[i], false)) ++settled;
        }
    }

    // -------------------------------------- calls whose code is in MarketExceptions

    /// @inheritdoc IMarketplace
    function setAutoRenew(bytes32, uint40, uint40, uint128) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function renewJob(bytes32) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function reclaimJob(bytes32) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function disputeJob(bytes32, string calldata) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function submitEvidence(bytes32, bytes32) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function resolveByTimeout(bytes32) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function recordReputation(bytes32) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function recordOutage(bytes32, uint40, uint40) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function recordDeath(bytes32, uint40) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function resolveDispute(bytes32, Verdict) external {
        _delegate();
    }

    /// @inheritdoc IMarketplace
    function expireBatch(bytes32[] calldata) external returns (uint256) {
        return abi.decode(_delegate(), (uint256));
    }

    // ------------------------------------------------------------------- admin

    /// @inheritdoc IMarketplace
    function setFee(uint16 newFeeBps) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setFee(newFeeBps);
    }

    /// @inheritdoc IMarketplace
    function setDisputeBond(uint16 newBondBps) external onlyRole(DEFAULT_ADMIN_ROLE) {
        if (newBondBps > MAX_BOND_BPS) revert FeeTooHigh(newBondBps, MAX_BOND_BPS);
        _storage().disputeBondBps = newBondBps;
        emit DisputeBondUpdated(newBondBps);
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

    function windows() external view returns (Windows memory) {
        return Windows(_acceptWindow, _startWindow, _disputeWindow, _verdictWindow);
    }

    function disputeBondBps() external view returns (uint16) {
        return _storage().disputeBondBps;
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

    /// @inheritdoc IMarketplace
    function nextDeadline(bytes32 jobId) external view returns (Deadline memory) {
        return _nextDeadline(jobId);
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

    // --------------------------------------------------------- private: ending

    function _completeByProvider(bytes32 jobId, bytes32 resultCid, uint40 maxSeconds, bool consented) private {
        JobRecord storage job = _inStatus(jobId, JobStatus.Running);
        uint64 memo = _onlyProvider(jobId);
        _complete(jobId, job, memo, EndReason.ProviderCompleted, resultCid, maxSeconds, consented);
    }

    // ---------------------------------------------------------- private: rules

    function _setFee(uint16 newFeeBps) private {
        uint16 maximum = escrow.MAX_FEE_BPS();
        if (newFeeBps > maximum) revert FeeTooHigh(newFeeBps, maximum);
        _storage().feeBps = newFeeBps;
        emit FeeUpdated(newFeeBps);
    }

    function _EIP712Name() internal pure override returns (string memory) {
        return "gpumarket";
    }

    function _EIP712Version() internal pure override returns (string memory) {
        return "1";
    }

    /// @dev The same call, by code that only this contract's constructor could have chosen.
    function _delegate() private returns (bytes memory) {
        return Address.functionDelegateCall(_exceptions, msg.data);
    }

    function _authorizeUpgrade(address) internal override onlyRole(DEFAULT_ADMIN_ROLE) {}
}
