// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControlUpgradeable} from "@openzeppelin/contracts-upgradeable/access/AccessControlUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {EIP712Upgradeable} from "@openzeppelin/contracts-upgradeable/utils/cryptography/EIP712Upgradeable.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {IMarketplace} from "./interfaces/IMarketplace.sol";
import {IOracleCommittee} from "./interfaces/IOracleCommittee.sol";
import {IReputationSystem} from "./interfaces/IReputationSystem.sol";
import {IResourceRegistry} from "./interfaces/IResourceRegistry.sol";
import {IStakeVault} from "./interfaces/IStakeVault.sol";
import {Settlement} from "./libraries/Settlement.sol";

/// @title k of n independent observers
/// @dev Trust: a threshold of members can grade providers, shorten what jobs bill, decide disputes, and slash up to `slashAmount` per
/// outcome, paid to the job's renter or burned. They can pay nobody else, themselves least of all.
contract OracleCommittee is IOracleCommittee, AccessControlUpgradeable, EIP712Upgradeable, UUPSUpgradeable {
    struct Contracts {
        IMarketplace marketplace;
        IResourceRegistry registry;
        IReputationSystem reputationSystem;
        IStakeVault stakeVault;
    }

    /// @custom:storage-location erc7201:gpumarket.storage.OracleCommittee
    struct Storage {
        Member[] members;
        bytes32 configDigest;
        uint64 configCount;
        uint64 latestSeq;
        uint8 threshold;
        mapping(uint64 seq => bytes32) outcomesRoots;
        mapping(uint64 seq => mapping(uint256 word => uint256)) applied;
    }

    bytes32 private constant STORAGE_SLOT =
        keccak256(abi.encode(uint256(keccak256("gpumarket.storage.OracleCommittee")) - 1)) & ~bytes32(uint256(0xff));
    bytes32 private constant REPORT_TYPEHASH = keccak256(
        "Report(bytes32 configDigest,uint64 seq,uint64 epoch,bytes32 outcomesRoot,uint32 count,bytes32 evidenceDigest)"
    );

    uint256 public constant MAX_MEMBERS = 32;

    IMarketplace public immutable marketplace;
    IResourceRegistry public immutable registry;
    IReputationSystem public immutable reputationSystem;
    IStakeVault public immutable stakeVault;
    /// @notice Stake taken for one proven wrong answer, and the renter's fixed part of it for the inconvenience.
    uint256 public immutable slashAmount;
    uint256 public immutable inconvenience;

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor(Contracts memory contracts, uint256 slashAmount_, uint256 inconvenience_) {
        marketplace = contracts.marketplace;
        registry = contracts.registry;
        reputationSystem = contracts.reputationSystem;
        stakeVault = contracts.stakeVault;
        slashAmount = slashAmount_;
        inconvenience = inconvenience_;
        _disableInitializers();
    }

    /// @param admin May upgrade this contract and change its members
    function initialize(address admin, Member[] calldata newMembers, uint8 newThreshold) external initializer {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _setConfig(newMembers, newThreshold);
    }

    // ----------------------------------------------------------------- reports

    /// @inheritdoc IOracleCommittee
    function submitValidationReport(Report calldata report, uint256 signersMask, bytes calldata signatures) external {
        // Check
        Storage storage $ = _storage();
        if (report.configDigest != $.configDigest) revert ConfigDigestMismatch($.configDigest, report.configDigest);
        if (report.seq <= $.latestSeq) revert ReportSequenceStale($.latestSeq, report.seq);
        _checkSignatures($, hashReport(report), signersMask, signatures);

        // Effect
        $.latestSeq = report.seq;
        $.outcomesRoots[report.seq] = report.outcomesRoot;
        emit ReportSubmitted(
            report.seq, report.epoch, report.outcomesRoot, report.count, report.evidenceDigest, signersMask
        );
    }

    // ---------------------------------------------------------------- outcomes

    /// @inheritdoc IOracleCommittee
    function reportDowntime(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external {
        _apply(seq, index, outcome, proof, OutcomeKind.Downtime);
        _checkJob(outcome);
        if (outcome.to == 0) marketplace.recordDeath(outcome.jobId, outcome.from);
        else marketplace.recordOutage(outcome.jobId, outcome.from, outcome.to);
        reputationSystem.applyPenalty(outcome.provider, IReputationSystem.PenaltyReason.Downtime);
    }

    /// @inheritdoc IOracleCommittee
    function reportTimeout(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external {
        _apply(seq, index, outcome, proof, OutcomeKind.Timeout);
        _checkJob(outcome);
        reputationSystem.applyPenalty(outcome.provider, IReputationSystem.PenaltyReason.Timeout);
    }

    /// @inheritdoc IOracleCommittee
    /// @dev No bounty: the answer was judged by the members, and whoever sends this transaction may be one of them.
    function reportInvalidData(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external {
        _apply(seq, index, outcome, proof, OutcomeKind.InvalidData);
        IMarketplace.Job memory job = _checkJob(outcome);
        reputationSystem.applyPenalty(outcome.provider, IReputationSystem.PenaltyReason.DataFraud);
        stakeVault.slash(outcome.provider, slashAmount, job.user, _compensationCap(job), address(0), 0, outcome.jobId);
    }

    /// @inheritdoc IOracleCommittee
    function reportInvalidSignature(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof)
        external
    {
        _apply(seq, index, outcome, proof, OutcomeKind.InvalidSignature);
        _checkJob(outcome);
        reputationSystem.applyPenalty(outcome.provider, IReputationSystem.PenaltyReason.InvalidSignature);
    }

    /// @inheritdoc IOracleCommittee
    function resolveDispute(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external {
        _apply(seq, index, outcome, proof, OutcomeKind.Verdict);
        _checkJob(outcome);
        IMarketplace.Verdict verdict = IMarketplace.Verdict(outcome.value);
        marketplace.resolveDispute(outcome.jobId, verdict);
        if (verdict == IMarketplace.Verdict.ProviderFault) {
            reputationSystem.applyPenalty(outcome.provider, IReputationSystem.PenaltyReason.DisputeLost);
        }
    }

    /// @inheritdoc IOracleCommittee
    function reportMetrics(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external {
        _apply(seq, index, outcome, proof, OutcomeKind.Metrics);
        uint16 uptime = uint16(outcome.value >> 16);
        reputationSystem.updateReputation(
            outcome.provider,
            IReputationSystem.Metrics({
                uptimePercent: uptime, responseRate: uint16(outcome.value), completionRate: 0, disputeRate: 0
            })
        );
        if (outcome.jobId != bytes32(0)) {
            if (address(uint160(uint256(outcome.jobId) >> 96)) != outcome.provider) {
                revert OutcomeSubjectMismatch(outcome.jobId, outcome.provider);
            }
            uint256 period = outcome.to - outcome.from;
            registry.updateUptime(outcome.jobId, uint64((period * uptime) / Settlement.BPS));
        }
    }

    // ------------------------------------------------------------------- admin

    /// @inheritdoc IOracleCommittee
    function setConfig(Member[] calldata newMembers, uint8 newThreshold) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setConfig(newMembers, newThreshold);
    }

    // ------------------------------------------------------------------- views

    function members() external view returns (Member[] memory) {
        return _storage().members;
    }

    function threshold() external view returns (uint8) {
        return _storage().threshold;
    }

    function configDigest() external view returns (bytes32) {
        return _storage().configDigest;
    }

    function latestSeq() external view returns (uint64) {
        return _storage().latestSeq;
    }

    function outcomesRootOf(uint64 seq) external view returns (bytes32) {
        return _storage().outcomesRoots[seq];
    }

    function isApplied(uint64 seq, uint32 index) external view returns (bool) {
        return _storage().applied[seq][index >> 8] & (1 << (index & 0xff)) != 0;
    }

    function hashReport(Report calldata report) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    REPORT_TYPEHASH,
                    report.configDigest,
                    report.seq,
                    report.epoch,
                    report.outcomesRoot,
                    report.count,
                    report.evidenceDigest
                )
            )
        );
    }

    /// @inheritdoc IOracleCommittee
    function hashOutcome(uint32 index, Outcome calldata outcome) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(index, outcome))));
    }

    // ----------------------------------------------------------------- private

    /// @dev Marks before anything else happens; a later failure undoes the mark.
    function _apply(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof, OutcomeKind expected)
        private
    {
        Storage storage $ = _storage();
        bytes32 root = $.outcomesRoots[seq];
        if (root == bytes32(0)) revert ReportMissing(seq);
        if (outcome.kind != expected) revert OutcomeKindMismatch(expected, outcome.kind);
        // The leaf binds its index, so the count that was signed bounds nothing more.
        if (!MerkleProof.verifyCalldata(proof, root, hashOutcome(index, outcome))) {
            revert OutcomeProofInvalid(seq, index);
        }
        uint256 bit = 1 << (index & 0xff);
        uint256 word = $.applied[seq][index >> 8];
        if (word & bit != 0) revert OutcomeAlreadyApplied(seq, index);

        $.applied[seq][index >> 8] = word | bit;
        emit OutcomeApplied(seq, index, expected, outcome.jobId, outcome.provider);
    }

    function _checkJob(Outcome calldata outcome) private view returns (IMarketplace.Job memory job) {
        job = marketplace.getJob(outcome.jobId);
        if (job.provider == address(0) || job.provider != outcome.provider) {
            revert OutcomeSubjectMismatch(outcome.jobId, outcome.provider);
        }
    }

    /// @dev The unserved part of what was prepaid, if it was paid in the token that is staked, plus the inconvenience.
    function _compensationCap(IMarketplace.Job memory job) private view returns (uint256) {
        if (job.paymentToken != stakeVault.token()) return inconvenience;
        uint40 served = marketplace.billableSeconds(job.jobId, uint40(block.timestamp));
        return Settlement.cost(job.pricePerHour, job.duration - served) + inconvenience;
    }

    function _checkSignatures(Storage storage $, bytes32 digest, uint256 signersMask, bytes calldata signatures)
        private
        view
    {
        uint256 given = signatures.length / 64;
        if (given < $.threshold || signatures.length % 64 != 0) revert ReportSignaturesTooFew(given, $.threshold);
        uint256 count = $.members.length;
        uint256 next = 0;
        for (uint256 i = 0; signersMask >> i != 0; ++i) {
            if ((signersMask >> i) & 1 == 0) continue;
            if (i >= count || next == given) revert ReportSignatureInvalid(i);
            bytes calldata signature = signatures[next * 64:(next + 1) * 64];
            (address signer, ECDSA.RecoverError err,) =
                ECDSA.tryRecover(digest, bytes32(signature[:32]), bytes32(signature[32:]));
            if (err != ECDSA.RecoverError.NoError || signer != $.members[i].signer) revert ReportSignatureInvalid(i);
            ++next;
        }
        // Every signature must belong to one bit: k signatures with fewer bits would be fewer members.
        if (next != given) revert ReportSignaturesTooFew(next, $.threshold);
    }

    function _setConfig(Member[] calldata newMembers, uint8 newThreshold) private {
        uint256 count = newMembers.length;
        if (count == 0 || count > MAX_MEMBERS) revert ConfigInvalid("members");
        if (newThreshold == 0 || newThreshold > count) revert ConfigInvalid("threshold");
        Storage storage $ = _storage();
        delete $.members;
        address[] memory signers = new address[](count);
        string[] memory endpoints = new string[](count);
        for (uint256 i = 0; i < count; ++i) {
            address signer = newMembers[i].signer;
            if (signer == address(0)) revert ConfigInvalid("signer");
            for (uint256 j = 0; j < i; ++j) {
                if (signers[j] == signer) revert ConfigInvalid("duplicate");
            }
            signers[i] = signer;
            endpoints[i] = newMembers[i].endpoint;
            $.members.push(newMembers[i]);
        }

        uint64 configCount = ++$.configCount;
        bytes32 digest =
            keccak256(abi.encode(block.chainid, address(this), configCount, newThreshold, signers, endpoints));
        $.configDigest = digest;
        $.threshold = newThreshold;
        emit CommitteeConfigured(digest, configCount, newThreshold, signers, endpoints);
    }

    function _storage() private pure returns (Storage storage $) {
        bytes32 slot = STORAGE_SLOT;
        assembly ("memory-safe") {
            $.slot := slot
        }
    }

    function _EIP712Name() internal pure override returns (string memory) {
        return "gpumarket OracleCommittee";
    }

    function _EIP712Version() internal pure override returns (string memory) {
        return "1";
    }

    function _authorizeUpgrade(address) internal override onlyRole(DEFAULT_ADMIN_ROLE) {}
}
