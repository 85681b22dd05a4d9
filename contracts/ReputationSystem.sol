// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControlUpgradeable} from "@openzeppelin/contracts-upgradeable/access/AccessControlUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {IReputationSystem} from "./interfaces/IReputationSystem.sol";
import {Reputation} from "./libraries/Reputation.sol";

/// @title What a provider's past says
contract ReputationSystem is IReputationSystem, AccessControlUpgradeable, UUPSUpgradeable {
    struct Record {
        // slot 0
        uint32 totalJobs;
        uint32 successfulJobs;
        uint32 disputes;
        uint32 penalty;
        uint32 bonus;
        uint40 lastUpdated;
        bool measured;
        uint16 uptime; // basis points, once measured
        uint16 response; // basis points, once measured
    }

    /// @custom:storage-location erc7201:gpumarket.storage.ReputationSystem
    struct Storage {
        mapping(address provider => Record) records;
    }

    bytes32 private constant STORAGE_SLOT =
        keccak256(abi.encode(uint256(keccak256("gpumarket.storage.ReputationSystem")) - 1)) & ~bytes32(uint256(0xff));

    uint32 public constant MIN_SAMPLE = 5;

    address public immutable marketplace;
    address public immutable committee;

    modifier onlyCommittee() {
        if (msg.sender != committee) revert ReputationCallerUnauthorized(msg.sender);
        _;
    }

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor(address marketplace_, address committee_) {
        marketplace = marketplace_;
        committee = committee_;
        _disableInitializers();
    }

    /// @param admin May upgrade this contract
    function initialize(address admin) external initializer {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @inheritdoc IReputationSystem
    function recordJob(address provider, JobOutcome outcome) external {
        if (msg.sender != marketplace) revert ReputationCallerUnauthorized(msg.sender);
        Record memory record = _storage().records[provider];
        record.totalJobs += 1;
        if (outcome == JobOutcome.Completed) record.successfulJobs += 1;
        if (outcome == JobOutcome.DisputeLost || outcome == JobOutcome.DisputeSplit) record.disputes += 1;
        emit JobRecorded(provider, outcome);
        _save(provider, record);
    }

    /// @inheritdoc IReputationSystem
    function updateReputation(address provider, Metrics calldata measured) external onlyCommittee {
        Record memory record = _storage().records[provider];
        record.measured = true;
        record.uptime = _inRange(measured.uptimePercent);
        record.response = _inRange(measured.responseRate);
        emit MetricsUpdated(provider, measured.uptimePercent, measured.responseRate);
        _save(provider, record);
    }

    /// @inheritdoc IReputationSystem
    function applyPenalty(address provider, PenaltyReason reason) external onlyCommittee {
        uint16 amount = _penaltyOf(reason);
        Record memory record = _storage().records[provider];
        record.penalty += amount;
        emit PenaltyApplied(provider, reason, amount);
        _save(provider, record);
    }

    /// @inheritdoc IReputationSystem
    function reward(address provider, uint16 bonus) external onlyCommittee {
        Record memory record = _storage().records[provider];
        record.bonus += bonus;
        emit RewardIssued(provider, bonus);
        _save(provider, record);
    }

    // ------------------------------------------------------------------- views

    function getReputation(address provider) external view returns (uint256) {
        return _score(_storage().records[provider]);
    }

    function getPenalty(address provider) external view returns (uint256) {
        return _storage().records[provider].penalty;
    }

    function scores(address provider) external view returns (ReputationScore memory) {
        Record memory record = _storage().records[provider];
        return ReputationScore({
            score: _score(record),
            isNew: _isNew(record),
            totalJobs: record.totalJobs,
            successfulJobs: record.successfulJobs,
            disputes: record.disputes,
            penalty: record.penalty,
            bonus: record.bonus,
            lastUpdated: record.lastUpdated
        });
    }

    function metrics(address provider) external view returns (Metrics memory) {
        return _metrics(_storage().records[provider]);
    }

    // ----------------------------------------------------------------- private

    function _save(address provider, Record memory record) private {
        record.lastUpdated = uint40(block.timestamp);
        _storage().records[provider] = record;
        emit ReputationUpdated(provider, _score(record));
    }

    function _score(Record memory record) private pure returns (uint16) {
        if (_isNew(record)) return 0;
        Metrics memory m = _metrics(record);
        return uint16(
            Reputation.score(
                m.uptimePercent, m.responseRate, m.completionRate, m.disputeRate, record.penalty, record.bonus
            )
        );
    }

    function _metrics(Record memory record) private pure returns (Metrics memory) {
        return Metrics({
            uptimePercent: record.measured ? record.uptime : uint16(Reputation.BPS),
            responseRate: record.measured ? record.response : uint16(Reputation.BPS),
            completionRate: uint16(Reputation.rate(record.successfulJobs, record.totalJobs)),
            disputeRate: uint16(Reputation.rate(record.disputes, record.totalJobs))
        });
    }

    function _isNew(Record memory record) private pure returns (bool) {
        return record.totalJobs < MIN_SAMPLE;
    }

    function _inRange(uint16 value) private pure returns (uint16) {
        if (value > Reputation.BPS) revert MetricsOutOfRange(value);
        return value;
    }

    function _penaltyOf(PenaltyReason reason) private pure returns (uint16) {
        if (reason == PenaltyReason.Timeout) return 25;
        if (reason == PenaltyReason.DataFraud) return 200;
        if (reason == PenaltyReason.DisputeLost) return 100;
        return 50; // Downtime, InvalidSignature
    }

    function _storage() private pure returns (Storage storage $) {
        bytes32 slot = STORAGE_SLOT;
        assembly ("memory-safe") {
            $.slot := slot
        }
    }

    function _authorizeUpgrade(address) internal override onlyRole(DEFAULT_ADMIN_ROLE) {}
}
