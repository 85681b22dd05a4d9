// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {IOracleCommittee} from "../../../contracts/interfaces/IOracleCommittee.sol";
import {IPaymentEscrow} from "../../../contracts/interfaces/IPaymentEscrow.sol";
import {IReputationSystem} from "../../../contracts/interfaces/IReputationSystem.sol";
import {IResourceRegistry} from "../../../contracts/interfaces/IResourceRegistry.sol";
import {IStakeVault} from "../../../contracts/interfaces/IStakeVault.sol";
import {Vm} from "./Vm.sol";

/// @notice A whole market, deployed from the artifacts (so that a change of a test compiles the test alone), with a renter, a provider
/// with one listed machine, a stranger, and a committee of three, two needed.
abstract contract MarketTest {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint32 internal constant ACCEPT = 120;
    uint32 internal constant START = 300;
    uint32 internal constant DISPUTE = 600;
    uint32 internal constant VERDICT = 900;
    uint16 internal constant FEE_BPS = 200;
    uint256 internal constant STAKE = 100 ether;
    uint40 internal constant UNBONDING = 1 days;
    uint256 internal constant SLASH = 50 ether;
    uint256 internal constant INCONVENIENCE = 5 ether;
    uint128 internal constant PRICE = 3.6 ether; // 0.001 a second
    uint40 internal constant HOUR = 1 hours;
    uint32 internal constant MIN = 60;
    bytes32 internal constant IMAGE = keccak256("image");
    bytes32 internal constant RESULT = keccak256("result");

    uint256 internal constant RENTER_KEY = 0xA11CE;
    uint256[3] internal signerKeys = [uint256(0x51), 0x52, 0x53];

    address internal admin = address(this);
    address internal renter = vm.addr(RENTER_KEY);
    address internal provider = address(0xBEEF);
    address internal stranger = address(0x57A6);

    IERC20 internal token;
    IPaymentEscrow internal escrow;
    IStakeVault internal vault;
    IResourceRegistry internal registry;
    IReputationSystem internal reputation;
    IMarketplace internal market;
    IOracleCommittee internal committee;
    bytes32 internal resourceId;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        _deployMarket(DISPUTE);
        _fund(renter);
        _fund(provider);
        _fund(stranger);
        resourceId = _list(provider);
    }

    // -------------------------------------------------------------- deployment

    function _deployMarket(uint32 disputeWindow) internal {
        uint256 nonce = vm.getNonce(address(this));
        address[11] memory places;
        for (uint256 i = 0; i < 11; ++i) {
            places[i] = vm.computeCreateAddress(address(this), nonce + i);
        }
        token = IERC20(_create("GPUToken", abi.encode(address(this), uint256(1e9 ether))));
        vault = IStakeVault(_create("StakeVault", abi.encode(places[0], places[10], STAKE, UNBONDING)));
        escrow = IPaymentEscrow(_create("PaymentEscrow", abi.encode(admin, places[8])));
        registry = IResourceRegistry(
            _createProxied(
                "ResourceRegistry",
                abi.encode(places[2], places[1], places[6], places[10], places[0]),
                _initialize(admin)
            )
        );
        reputation = IReputationSystem(
            _createProxied("ReputationSystem", abi.encode(places[8], places[10]), _initialize(admin))
        );
        market = IMarketplace(
            _createProxied(
                "Marketplace",
                abi.encode(
                    places[2], places[4], places[1], places[6], places[10], ACCEPT, START, disputeWindow, VERDICT
                ),
                abi.encodeWithSignature("initialize(address,uint16)", admin, FEE_BPS)
            )
        );
        committee = IOracleCommittee(
            _createProxied(
                "OracleCommittee",
                abi.encode(places[8], places[4], places[6], places[1], SLASH, INCONVENIENCE),
                abi.encodeWithSignature("initialize(address,(address,string)[],uint8)", admin, _members(), uint8(2))
            )
        );
        vm.assertEq(address(committee), places[10]);
        escrow.allowToken(address(token));
    }

    function _members() internal view returns (IOracleCommittee.Member[] memory list) {
        list = new IOracleCommittee.Member[](3);
        for (uint256 i = 0; i < 3; ++i) {
            list[i] = IOracleCommittee.Member(vm.addr(signerKeys[i]), "http://oracle.example");
        }
    }

    function _initialize(address owner) private pure returns (bytes memory) {
        return abi.encodeWithSignature("initialize(address)", owner);
    }

    function _createProxied(string memory name, bytes memory arguments, bytes memory data) internal returns (address) {
        return _create("MarketProxy", abi.encode(_create(name, arguments), data));
    }

    function _create(string memory name, bytes memory arguments) internal returns (address made) {
        bytes memory code = abi.encodePacked(vm.getCode(string.concat(name, ".sol:", name)), arguments);
        assembly ("memory-safe") {
            made := create(0, add(code, 0x20), mload(code))
            if iszero(made) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }

    // ------------------------------------------------------------------ actors

    function _fund(address account) internal {
        assert(token.transfer(account, 1_000_000 ether));
        vm.startPrank(account);
        token.approve(address(escrow), type(uint256).max);
        token.approve(address(vault), type(uint256).max);
        vm.stopPrank();
    }

    function _list(address account) internal returns (bytes32 id) {
        vm.startPrank(account);
        vault.stake(STAKE);
        registry.registerProvider("https://provider.example");
        id = registry.registerResource("NVIDIA H200", 16, 128, 64, PRICE);
        vm.stopPrank();
    }

    function _request() internal view returns (IMarketplace.JobRequest memory) {
        return IMarketplace.JobRequest(resourceId, IMAGE, HOUR, PRICE, address(token), "");
    }

    // -------------------------------------------------------------------- jobs

    function _created() internal returns (bytes32 jobId) {
        IMarketplace.JobRequest memory request = _request();
        vm.prank(renter);
        return market.createJob(request);
    }

    function _accepted() internal returns (bytes32 jobId) {
        jobId = _created();
        vm.prank(provider);
        market.acceptJob(jobId);
    }

    function _running() internal returns (bytes32 jobId) {
        jobId = _accepted();
        vm.prank(provider);
        market.startJob(jobId);
    }

    function _completedAfter(uint256 secondsRun) internal returns (bytes32 jobId) {
        jobId = _running();
        _pass(secondsRun);
        vm.prank(provider);
        market.completeJob(jobId, RESULT);
    }

    function _disputedAfter(uint256 secondsRun) internal returns (bytes32 jobId) {
        jobId = _running();
        _pass(secondsRun);
        vm.prank(renter);
        market.disputeJob(jobId, "no output");
    }

    function _resolved() internal returns (bytes32 jobId) {
        jobId = _disputedAfter(100);
        vm.prank(address(committee));
        market.resolveDispute(jobId, IMarketplace.Verdict.UserFault);
    }

    function _cancelled() internal returns (bytes32 jobId) {
        jobId = _created();
        vm.prank(renter);
        market.cancelJob(jobId);
    }

    /// @notice A job in any status; Completed is still inside its dispute window.
    function _jobIn(IMarketplace.JobStatus status) internal returns (bytes32 jobId) {
        if (status == IMarketplace.JobStatus.Created) return _created();
        if (status == IMarketplace.JobStatus.Accepted) return _accepted();
        if (status == IMarketplace.JobStatus.Running) return _running();
        if (status == IMarketplace.JobStatus.Completed) return _completedAfter(100);
        if (status == IMarketplace.JobStatus.Disputed) return _disputedAfter(100);
        if (status == IMarketplace.JobStatus.Resolved) return _resolved();
        if (status == IMarketplace.JobStatus.Cancelled) return _cancelled();
        return keccak256("nobody's job");
    }

    // ------------------------------------------------------------------- reads

    function _status(bytes32 jobId) internal view returns (IMarketplace.JobStatus) {
        return market.getJob(jobId).status;
    }

    function _assertStatus(bytes32 jobId, IMarketplace.JobStatus expected) internal view {
        vm.assertEq(uint256(_status(jobId)), uint256(expected));
    }

    function _credit(address account) internal view returns (uint256) {
        return escrow.balanceOf(address(token), account);
    }

    function _locked(bytes32 jobId) internal view returns (uint256) {
        return market.getJob(jobId).lockedAmount;
    }

    /// @notice Asserts what each bucket holds: provider and fee from `cost`, the renter the rest, `locked` still in escrow.
    function _assertPaid(uint256 cost, uint256 refunded) internal view {
        uint256 fee = cost * FEE_BPS / 10_000;
        vm.assertEq(_credit(provider), cost - fee, "provider");
        vm.assertEq(escrow.feesOf(address(token)), fee, "fee");
        vm.assertEq(_credit(renter), refunded, "renter");
    }

    function _now() internal view returns (uint40) {
        return uint40(vm.getBlockTimestamp());
    }

    function _pass(uint256 time) internal {
        vm.warp(vm.getBlockTimestamp() + time);
    }

    function _expectStatusInvalid(bytes32 jobId, IMarketplace.JobStatus actual) internal {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.JobStatusInvalid.selector, jobId, actual));
    }

    function _expectUnauthorized(bytes32 jobId, address caller) internal {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.JobCallerUnauthorized.selector, jobId, caller));
    }

    function _expectPassed(bytes32 jobId, uint256 deadline) internal {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.JobDeadlinePassed.selector, jobId, deadline));
    }

    function _expectNotReached(bytes32 jobId, uint256 deadline) internal {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.JobDeadlineNotReached.selector, jobId, deadline));
    }
}
