// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IMarketplace} from "../../contracts/interfaces/IMarketplace.sol";
import {IOracleCommittee} from "../../contracts/interfaces/IOracleCommittee.sol";
import {IReputationSystem} from "../../contracts/interfaces/IReputationSystem.sol";
import {MarketTest} from "./support/MarketTest.sol";

/// @notice Three members, two needed.
contract OracleCommitteeTest is MarketTest {
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    event ReportSubmitted(
        uint64 indexed seq,
        uint64 indexed epoch,
        bytes32 outcomesRoot,
        uint32 count,
        bytes32 evidenceDigest,
        uint256 signersMask
    );
    event OutcomeApplied(
        uint64 indexed seq,
        uint32 index,
        IOracleCommittee.OutcomeKind kind,
        bytes32 indexed jobId,
        address indexed provider
    );
    event PenaltyApplied(address indexed provider, IReputationSystem.PenaltyReason reason, uint16 amount);

    IOracleCommittee.Outcome private filler = IOracleCommittee.Outcome(
        IOracleCommittee.OutcomeKind.Validation, keccak256("other"), address(9), 1, 2, 3, keccak256("evidence")
    );

    // ----------------------------------------------------------------- helpers

    function _report(uint64 seq, bytes32 root, uint32 count) private view returns (IOracleCommittee.Report memory) {
        return IOracleCommittee.Report(committee.configDigest(), seq, seq * 10, root, count, keccak256("evidence"));
    }

    function _sign(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
    }

    function _signatures(bytes32 digest) private view returns (bytes memory) {
        return bytes.concat(_sign(signerKeys[0], digest), _sign(signerKeys[2], digest));
    }

    function _submit(IOracleCommittee.Report memory report) private {
        committee.submitValidationReport(report, 5, _signatures(committee.hashReport(report)));
    }

    /// @notice Submits a report of two outcomes, the given one at `index`, and returns its proof.
    function _publish(uint64 seq, uint32 index, IOracleCommittee.Outcome memory outcome)
        private
        returns (bytes32[] memory proof)
    {
        bytes32 leaf = committee.hashOutcome(index, outcome);
        bytes32 other = committee.hashOutcome(1 - index, filler);
        bytes32 root = leaf < other ? keccak256(abi.encode(leaf, other)) : keccak256(abi.encode(other, leaf));
        _submit(_report(seq, root, 2));
        proof = new bytes32[](1);
        proof[0] = other;
    }

    function _outcome(IOracleCommittee.OutcomeKind kind, bytes32 jobId)
        private
        view
        returns (IOracleCommittee.Outcome memory)
    {
        return IOracleCommittee.Outcome(kind, jobId, provider, 0, 0, 0, keccak256("evidence"));
    }

    // ----------------------------------------------------------------- reports

    function test_report_default_behavior() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes memory signatures = _signatures(committee.hashReport(report));
        vm.expectEmit(address(committee));
        emit ReportSubmitted(1, 10, RESULT, 7, keccak256("evidence"), 5);
        vm.prank(stranger);
        committee.submitValidationReport(report, 5, signatures);
        vm.assertEq(committee.latestSeq(), 1);
        vm.assertEq(committee.outcomesRootOf(1), RESULT);
    }

    function test_the_digest_is_eip712() public view {
        IOracleCommittee.Report memory r = _report(3, RESULT, 7);
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("gpumarket OracleCommittee"),
                keccak256("1"),
                block.chainid,
                address(committee)
            )
        );
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "Report(bytes32 configDigest,uint64 seq,uint64 epoch,bytes32 outcomesRoot,uint32 count,bytes32 evidenceDigest)"
                ),
                r
            )
        );
        vm.assertEq(committee.hashReport(r), keccak256(abi.encodePacked(hex"1901", domain, structHash)));
    }

    function test_all_three_may_sign() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes32 digest = committee.hashReport(report);
        bytes memory signatures =
            bytes.concat(_sign(signerKeys[0], digest), _sign(signerKeys[1], digest), _sign(signerKeys[2], digest));
        committee.submitValidationReport(report, 7, signatures);
    }

    function test_one_signature_less_than_needed() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes memory one = _sign(signerKeys[0], committee.hashReport(report));
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignaturesTooFew.selector, 1, 2));
        committee.submitValidationReport(report, 1, one);
    }

    function test_one_member_twice() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes memory one = _sign(signerKeys[0], committee.hashReport(report));
        bytes memory twice = bytes.concat(one, one);
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignaturesTooFew.selector, 1, 2));
        committee.submitValidationReport(report, 1, twice);
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignatureInvalid.selector, 1));
        committee.submitValidationReport(report, 3, twice);
    }

    function test_a_cut_signature() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes memory cut = bytes.concat(_signatures(committee.hashReport(report)), hex"00");
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignaturesTooFew.selector, 2, 2));
        committee.submitValidationReport(report, 5, cut);
    }

    function test_more_bits_than_signatures() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes memory signatures = _signatures(committee.hashReport(report));
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignatureInvalid.selector, 1));
        committee.submitValidationReport(report, 7, signatures);
    }

    function test_a_bit_beyond_the_members() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes32 digest = committee.hashReport(report);
        bytes memory signatures = bytes.concat(_sign(signerKeys[0], digest), _sign(0xBAD, digest));
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignatureInvalid.selector, 3));
        committee.submitValidationReport(report, 9, signatures);
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignatureInvalid.selector, 255));
        committee.submitValidationReport(report, 1 | (1 << 255), signatures);
    }

    function test_not_in_member_order() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes32 digest = committee.hashReport(report);
        bytes memory swapped = bytes.concat(_sign(signerKeys[2], digest), _sign(signerKeys[0], digest));
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignatureInvalid.selector, 0));
        committee.submitValidationReport(report, 5, swapped);
    }

    /// @dev In the compact form the top bit of s is the parity: a high s reads as another, wrong signature.
    function test_a_high_s_is_refused() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        bytes32 digest = committee.hashReport(report);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(signerKeys[0], digest);
        bytes32 high = bytes32(ORDER - uint256(s));
        bytes32[2] memory forms = [high, bytes32(uint256(high) | (uint256(28 - v) << 255))];
        for (uint256 i = 0; i < 2; ++i) {
            bytes memory signatures = bytes.concat(r, forms[i], _sign(signerKeys[2], digest));
            vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSignatureInvalid.selector, 0));
            committee.submitValidationReport(report, 5, signatures);
        }
    }

    function test_the_sequence_must_rise() public {
        _submit(_report(5, RESULT, 7));
        for (uint64 seq = 4; seq < 6; ++seq) {
            IOracleCommittee.Report memory report = _report(seq, IMAGE, 7);
            bytes memory signatures = _signatures(committee.hashReport(report));
            vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportSequenceStale.selector, 5, seq));
            committee.submitValidationReport(report, 5, signatures);
        }
    }

    function test_another_configuration() public {
        IOracleCommittee.Report memory report = _report(1, RESULT, 7);
        committee.setConfig(_members(), 2);
        bytes memory signatures = _signatures(committee.hashReport(report));
        vm.expectRevert(
            abi.encodeWithSelector(
                IOracleCommittee.ConfigDigestMismatch.selector, committee.configDigest(), report.configDigest
            )
        );
        committee.submitValidationReport(report, 5, signatures);
    }

    // ---------------------------------------------------------------- outcomes

    function test_an_outage() public {
        bytes32 jobId = _running();
        uint40 start = _now();
        _pass(1000);
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Downtime, jobId);
        (outcome.from, outcome.to) = (start + 100, start + 300);
        bytes32[] memory proof = _publish(1, 1, outcome);
        vm.expectEmit(address(committee));
        emit OutcomeApplied(1, 1, IOracleCommittee.OutcomeKind.Downtime, jobId, provider);
        vm.expectEmit(address(reputation));
        emit PenaltyApplied(provider, IReputationSystem.PenaltyReason.Downtime, 50);
        vm.prank(stranger);
        committee.reportDowntime(1, 1, outcome, proof);
        vm.assertEq(market.getJob(jobId).outageSeconds, 200);
        vm.assertTrue(committee.isApplied(1, 1));
        vm.assertFalse(committee.isApplied(1, 0));
    }

    function test_a_death() public {
        bytes32 jobId = _running();
        uint40 start = _now();
        _pass(1000);
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Downtime, jobId);
        outcome.from = start + 300;
        bytes32[] memory proof = _publish(1, 0, outcome);
        committee.reportDowntime(1, 0, outcome, proof);
        vm.assertEq(market.getJob(jobId).deadAt, start + 300);
    }

    function test_a_timeout_and_an_invalid_signature() public {
        bytes32 jobId = _running();
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Timeout, jobId);
        bytes32[] memory proof = _publish(1, 0, outcome);
        committee.reportTimeout(1, 0, outcome, proof);
        vm.assertEq(reputation.getPenalty(provider), 25);
        outcome = _outcome(IOracleCommittee.OutcomeKind.InvalidSignature, jobId);
        proof = _publish(2, 0, outcome);
        committee.reportInvalidSignature(2, 0, outcome, proof);
        vm.assertEq(reputation.getPenalty(provider), 75);
    }

    function test_invalid_data_slashes_and_the_renter_comes_first() public {
        bytes32 jobId = _running();
        _pass(1000);
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.InvalidData, jobId);
        bytes32[] memory proof = _publish(1, 0, outcome);
        uint256 supply = token.totalSupply();
        vm.prank(vm.addr(signerKeys[0]));
        committee.reportInvalidData(1, 0, outcome, proof);
        // 2600 unserved seconds and the inconvenience; the rest is burned, nothing for the member who sent it.
        vm.assertEq(vault.compensationOf(renter), 2.6 ether + INCONVENIENCE);
        vm.assertEq(vault.compensationOf(vm.addr(signerKeys[0])), 0);
        vm.assertEq(vault.stakeOf(provider).active, STAKE - SLASH);
        vm.assertEq(token.totalSupply(), supply - (SLASH - 2.6 ether - INCONVENIENCE));
        vm.assertEq(reputation.getPenalty(provider), 200);
    }

    function test_verdicts() public {
        IMarketplace.Verdict[3] memory verdicts =
            [IMarketplace.Verdict.ProviderFault, IMarketplace.Verdict.UserFault, IMarketplace.Verdict.SplitPayment];
        for (uint64 i = 0; i < 3; ++i) {
            bytes32 jobId = _disputedAfter(100);
            IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Verdict, jobId);
            outcome.value = uint256(verdicts[i]);
            bytes32[] memory proof = _publish(i + 1, 0, outcome);
            committee.resolveDispute(i + 1, 0, outcome, proof);
            _assertStatus(jobId, IMarketplace.JobStatus.Resolved);
        }
        vm.assertEq(reputation.getPenalty(provider), 100);
    }

    function test_metrics_of_a_provider_and_of_a_resource() public {
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Metrics, bytes32(0));
        outcome.value = (9500 << 16) | 8000;
        bytes32[] memory proof = _publish(1, 0, outcome);
        committee.reportMetrics(1, 0, outcome, proof);
        vm.assertEq(reputation.metrics(provider).uptimePercent, 9500);
        vm.assertEq(reputation.metrics(provider).responseRate, 8000);

        outcome.jobId = resourceId;
        (outcome.from, outcome.to) = (1000, 2000);
        proof = _publish(2, 0, outcome);
        committee.reportMetrics(2, 0, outcome, proof);
        vm.assertEq(registry.getResource(resourceId).totalUptime, 950);
    }

    // ----------------------------------------------------------- once and only

    function test_each_outcome_once() public {
        bytes32 jobId = _running();
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Timeout, jobId);
        bytes32[] memory proof = _publish(1, 0, outcome);
        committee.reportTimeout(1, 0, outcome, proof);
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.OutcomeAlreadyApplied.selector, 1, 0));
        committee.reportTimeout(1, 0, outcome, proof);
    }

    function test_not_under_another_index() public {
        bytes32 jobId = _running();
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Timeout, jobId);
        bytes32[] memory proof = _publish(1, 0, outcome);
        for (uint32 index = 1; index < 3; ++index) {
            vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.OutcomeProofInvalid.selector, 1, index));
            committee.reportTimeout(1, index, outcome, proof);
        }
    }

    function test_not_changed() public {
        bytes32 jobId = _running();
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Timeout, jobId);
        bytes32[] memory proof = _publish(1, 0, outcome);
        outcome.value = 1;
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.OutcomeProofInvalid.selector, 1, 0));
        committee.reportTimeout(1, 0, outcome, proof);
    }

    function test_not_without_a_report() public {
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Timeout, RESULT);
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ReportMissing.selector, 1));
        committee.reportTimeout(1, 0, outcome, new bytes32[](0));
    }

    function test_each_kind_through_its_own_entry_point() public {
        bytes32 jobId = _disputedAfter(10);
        bytes4[6] memory entries = [
            committee.reportDowntime.selector,
            committee.reportTimeout.selector,
            committee.reportInvalidData.selector,
            committee.reportInvalidSignature.selector,
            committee.resolveDispute.selector,
            committee.reportMetrics.selector
        ];
        for (uint8 kind = 0; kind < 7; ++kind) {
            IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind(kind), jobId);
            bytes32[] memory proof = _publish(kind + 1, 0, outcome);
            for (uint8 i = 0; i < 6; ++i) {
                if (i + 1 == kind) continue;
                (bool done, bytes memory reason) =
                    address(committee).call(abi.encodeWithSelector(entries[i], uint64(kind + 1), 0, outcome, proof));
                vm.assertFalse(done);
                vm.assertEq(
                    keccak256(reason),
                    keccak256(abi.encodeWithSelector(IOracleCommittee.OutcomeKindMismatch.selector, i + 1, kind))
                );
            }
        }
    }

    function test_the_job_must_be_the_providers() public {
        bytes32 jobId = _running();
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Timeout, jobId);
        outcome.provider = stranger;
        bytes32[] memory proof = _publish(1, 0, outcome);
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.OutcomeSubjectMismatch.selector, jobId, stranger));
        committee.reportTimeout(1, 0, outcome, proof);

        outcome = _outcome(IOracleCommittee.OutcomeKind.Metrics, resourceId);
        outcome.provider = stranger;
        proof = _publish(2, 0, outcome);
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.OutcomeSubjectMismatch.selector, resourceId, stranger));
        committee.reportMetrics(2, 0, outcome, proof);
    }

    function test_a_failed_application_can_be_tried_again() public {
        bytes32 jobId = _running();
        IOracleCommittee.Outcome memory outcome = _outcome(IOracleCommittee.OutcomeKind.Verdict, jobId);
        bytes32[] memory proof = _publish(1, 0, outcome);
        _expectStatusInvalid(jobId, IMarketplace.JobStatus.Running);
        committee.resolveDispute(1, 0, outcome, proof);
        vm.assertFalse(committee.isApplied(1, 0));
        vm.prank(renter);
        market.disputeJob(jobId, "");
        committee.resolveDispute(1, 0, outcome, proof);
    }

    // ----------------------------------------------------------- configuration

    function test_config_default_behavior() public view {
        vm.assertEq(committee.members().length, 3);
        vm.assertEq(committee.members()[1].signer, vm.addr(signerKeys[1]));
        vm.assertEq(committee.members()[1].endpoint, "http://oracle.example");
        vm.assertEq(committee.threshold(), 2);
    }

    function test_config_invalid() public {
        IOracleCommittee.Member[] memory list = _members();
        _expectConfig("threshold");
        committee.setConfig(list, 0);
        _expectConfig("threshold");
        committee.setConfig(list, 4);
        _expectConfig("members");
        committee.setConfig(new IOracleCommittee.Member[](0), 1);
        _expectConfig("members");
        committee.setConfig(new IOracleCommittee.Member[](33), 1);
        list[2].signer = list[0].signer;
        _expectConfig("duplicate");
        committee.setConfig(list, 2);
        list[2].signer = address(0);
        _expectConfig("signer");
        committee.setConfig(list, 2);
    }

    function test_config_is_the_admins() public {
        IOracleCommittee.Member[] memory list = _members();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, bytes32(0))
        );
        vm.prank(stranger);
        committee.setConfig(list, 2);
    }

    function _expectConfig(string memory field) private {
        vm.expectRevert(abi.encodeWithSelector(IOracleCommittee.ConfigInvalid.selector, field));
    }
}
