// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "./IMarketplace.sol";

/// @title k of n independent observers
/// @notice One report an epoch carries a Merkle root of outcomes and k signatures. Each outcome is then applied once, by
/// anyone, with its proof, through the entry point of its kind. Members sign EIP-712 `Report(...)` under the domain ("gpumarket OracleCommittee", "1").
/// Leaf i: keccak256(bytes.concat(keccak256(abi.encode(uint32(i), outcome)))); inner nodes: sorted pairs, keccak256. The index is part of
/// the leaf, so that nobody can apply one outcome under two indexes.
interface IOracleCommittee {
    enum OutcomeKind {
        Validation, // challenges passed; needs no application
        Downtime, // to == 0: the host is dead since `from`
        Timeout,
        InvalidData,
        InvalidSignature,
        Verdict, // value = IMarketplace.Verdict
        Metrics // value = uptime bps << 16 | response bps; from, to: the period; jobId: a resource id, or zero
    }

    struct Report {
        bytes32 configDigest;
        uint64 seq; // strictly rising
        uint64 epoch;
        bytes32 outcomesRoot;
        uint32 count;
        bytes32 evidenceDigest; // sha2-256 of the evidence bundle's root CID
    }

    struct Outcome {
        OutcomeKind kind;
        bytes32 jobId;
        address provider;
        uint40 from;
        uint40 to;
        uint256 value;
        bytes32 evidence;
    }

    struct Member {
        address signer;
        string endpoint;
    }

    event CommitteeConfigured(
        bytes32 indexed configDigest, uint64 configCount, uint8 threshold, address[] signers, string[] endpoints
    );
    event ReportSubmitted(
        uint64 indexed seq,
        uint64 indexed epoch,
        bytes32 outcomesRoot,
        uint32 count,
        bytes32 evidenceDigest,
        uint256 signersMask
    );
    event OutcomeApplied(
        uint64 indexed seq, uint32 index, OutcomeKind kind, bytes32 indexed jobId, address indexed provider
    );

    error ConfigInvalid(string field);
    error ConfigDigestMismatch(bytes32 expected, bytes32 given);
    error ReportSequenceStale(uint64 latest, uint64 given);
    error ReportSignaturesTooFew(uint256 given, uint256 required);
    error ReportSignatureInvalid(uint256 memberIndex);
    error ReportMissing(uint64 seq);
    error OutcomeProofInvalid(uint64 seq, uint32 index);
    error OutcomeAlreadyApplied(uint64 seq, uint32 index);
    error OutcomeKindMismatch(OutcomeKind expected, OutcomeKind given);
    error OutcomeSubjectMismatch(bytes32 jobId, address provider);

    /// @notice Stores a report signed by the threshold.
    /// @param signersMask Bit i set: member i signed; `signatures` holds 64-byte (r, vs) pairs (EIP-2098) in rising member order
    function submitValidationReport(Report calldata report, uint256 signersMask, bytes calldata signatures) external;

    /// @notice Unbilled time, and a penalty; with `to` zero the host is dead and the job can be ended by anyone.
    function reportDowntime(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external;
    function reportTimeout(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external;
    /// @notice A proven wrong answer: penalty and slash, the job's renter compensated first.
    function reportInvalidData(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external;
    function reportInvalidSignature(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof)
        external;
    function resolveDispute(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external;
    function reportMetrics(uint64 seq, uint32 index, Outcome calldata outcome, bytes32[] calldata proof) external;

    /// @notice Admin only. 1..32 members, `threshold` of them needed.
    function setConfig(Member[] calldata newMembers, uint8 newThreshold) external;

    function members() external view returns (Member[] memory);
    function threshold() external view returns (uint8);
    function configDigest() external view returns (bytes32);
    function latestSeq() external view returns (uint64);
    function outcomesRootOf(uint64 seq) external view returns (bytes32);
    function isApplied(uint64 seq, uint32 index) external view returns (bool);
    function hashReport(Report calldata report) external view returns (bytes32);
    /// @notice The outcome's leaf.
    function hashOutcome(uint32 index, Outcome calldata outcome) external pure returns (bytes32);
}
