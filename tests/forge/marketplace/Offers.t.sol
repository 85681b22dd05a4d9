// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {IPaymentEscrow} from "../../../contracts/interfaces/IPaymentEscrow.sol";
import {IResourceRegistry} from "../../../contracts/interfaces/IResourceRegistry.sol";
import {IAccessPolicy} from "../../../contracts/interfaces/IAccessPolicy.sol";
import {MarketTest} from "../support/MarketTest.sol";

contract Guests is IAccessPolicy {
    address private immutable _guest;

    constructor(address guest) {
        _guest = guest;
    }

    function isAllowed(bytes32, address renter) external view returns (bool) {
        return renter == _guest;
    }
}

/// @notice A provider that is a contract: it agrees to exactly one digest.
contract Agreeing {
    bytes32 public digest;

    function agree(bytes32 digest_) external {
        digest = digest_;
    }

    function isValidSignature(bytes32 hash, bytes calldata) external view returns (bytes4) {
        return hash == digest ? this.isValidSignature.selector : bytes4(0);
    }
}

contract OffersTest is MarketTest {
    uint256 private constant HOST_KEY = 0x4057;
    address private host;
    bytes32 private machine;

    function setUp() public override {
        super.setUp();
        host = vm.addr(HOST_KEY);
        _fund(host);
        machine = _list(host);
    }

    function _offer() private view returns (IResourceRegistry.Offer memory) {
        return IResourceRegistry.Offer({
            resourceId: machine,
            pricePerHour: PRICE / 2,
            paymentToken: address(token),
            minSeconds: 30,
            maxSeconds: 2 hours,
            validUntil: _now() + 100,
            epoch: 0,
            renters: bytes32(0)
        });
    }

    function _sign(IResourceRegistry.Offer memory offer, uint256 key) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, registry.hashOffer(offer));
        return abi.encodePacked(r, s, v);
    }

    function _wanted() private view returns (IMarketplace.JobRequest memory request) {
        request = _request();
        request.resourceId = machine;
    }

    function _take(IResourceRegistry.Offer memory offer, bytes memory signature, bytes32[] memory proof, address who)
        private
        returns (bytes32)
    {
        IMarketplace.JobRequest memory request = _wanted();
        vm.prank(who);
        return market.createJobFromOffer(request, offer, signature, proof);
    }

    function _expectInvalid(string memory field) private {
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.OfferInvalid.selector, field));
    }

    function test_an_offer_opens_an_accepted_job_at_its_price() public {
        IResourceRegistry.Offer memory offer = _offer();
        bytes32 jobId = _take(offer, _sign(offer, HOST_KEY), new bytes32[](0), renter);
        IMarketplace.Job memory job = market.getJob(jobId);
        _assertStatus(jobId, IMarketplace.JobStatus.Accepted);
        vm.assertEq(job.pricePerHour, PRICE / 2);
        vm.assertEq(job.minSeconds, 30);
        vm.assertEq(job.lockedAmount, 1.8 ether);
        vm.assertEq(job.resourceId, machine);
        vm.prank(host);
        market.startJob(jobId);
        _assertStatus(jobId, IMarketplace.JobStatus.Running);
    }

    function test_the_digest_is_eip712() public view {
        IResourceRegistry.Offer memory o = _offer();
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("gpumarket ResourceRegistry"),
                keccak256("1"),
                block.chainid,
                address(registry)
            )
        );
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "Offer(bytes32 resourceId,uint128 pricePerHour,address paymentToken,uint32 minSeconds,uint32 maxSeconds,uint40 validUntil,uint64 epoch,bytes32 renters)"
                ),
                o.resourceId,
                o.pricePerHour,
                o.paymentToken,
                o.minSeconds,
                o.maxSeconds,
                o.validUntil,
                o.epoch,
                o.renters
            )
        );
        vm.assertEq(registry.hashOffer(o), keccak256(abi.encodePacked(hex"1901", domain, structHash)));
    }

    function test_only_the_providers_signature_counts() public {
        IResourceRegistry.Offer memory offer = _offer();
        bytes memory signature = _sign(offer, RENTER_KEY);
        _expectInvalid("signature");
        _take(offer, signature, new bytes32[](0), renter);
        signature = _sign(offer, HOST_KEY);
        offer.pricePerHour = 1;
        _expectInvalid("signature");
        _take(offer, signature, new bytes32[](0), renter);
    }

    function test_an_offer_expires() public {
        IResourceRegistry.Offer memory offer = _offer();
        bytes memory signature = _sign(offer, HOST_KEY);
        vm.warp(offer.validUntil + 1);
        _expectInvalid("validUntil");
        _take(offer, signature, new bytes32[](0), renter);
        vm.warp(offer.validUntil);
        _take(offer, signature, new bytes32[](0), renter);
    }

    function test_cancelling_ends_every_offer_signed_before() public {
        IResourceRegistry.Offer memory offer = _offer();
        bytes memory signature = _sign(offer, HOST_KEY);
        vm.prank(host);
        registry.cancelOffers();
        vm.assertEq(registry.offerEpochOf(host), 1);
        _expectInvalid("epoch");
        _take(offer, signature, new bytes32[](0), renter);
        offer.epoch = 1;
        _take(offer, _sign(offer, HOST_KEY), new bytes32[](0), renter);
    }

    function test_an_offer_for_some_renters_is_for_them_only() public {
        bytes32 a = keccak256(bytes.concat(keccak256(abi.encode(renter))));
        bytes32 b = keccak256(bytes.concat(keccak256(abi.encode(provider))));
        IResourceRegistry.Offer memory offer = _offer();
        offer.renters = a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
        bytes memory signature = _sign(offer, HOST_KEY);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = b;
        _expectInvalid("renters");
        _take(offer, signature, proof, stranger);
        _expectInvalid("renters");
        _take(offer, signature, new bytes32[](0), renter);
        _take(offer, signature, proof, renter);
    }

    function test_an_offer_without_price_or_minimum_is_none() public {
        IResourceRegistry.Offer memory offer = _offer();
        offer.pricePerHour = 0;
        _expectInvalid("pricePerHour");
        _take(offer, "", new bytes32[](0), renter);
        offer = _offer();
        offer.minSeconds = 0;
        _expectInvalid("minSeconds");
        _take(offer, "", new bytes32[](0), renter);
    }

    function test_an_offer_is_bound_by_what_binds_every_rental() public {
        IResourceRegistry.Offer memory offer = _offer();
        bytes memory signature = _sign(offer, HOST_KEY);
        // A machine that its provider has taken off the market, or drains.
        vm.prank(host);
        registry.updateAvailability(machine, false);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ResourceUnavailable.selector, machine));
        _take(offer, signature, new bytes32[](0), renter);
        vm.prank(host);
        registry.updateAvailability(machine, true);
        // A provider without its stake.
        vm.prank(host);
        vault.requestUnstake(1);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ProviderStakeTooLow.selector, host, STAKE - 1, STAKE));
        _take(offer, signature, new bytes32[](0), renter);
        vm.prank(host);
        vault.stake(1);
        // A pause.
        (bool done,) = address(market).call(abi.encodeWithSignature("pause()"));
        vm.assertTrue(done);
        vm.expectRevert(bytes4(keccak256("EnforcedPause()")));
        _take(offer, signature, new bytes32[](0), renter);
        (done,) = address(market).call(abi.encodeWithSignature("unpause()"));
        // Once only while it runs.
        bytes32 jobId = _take(offer, signature, new bytes32[](0), renter);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ResourceBusy.selector, machine, jobId));
        _take(offer, signature, new bytes32[](0), renter);
    }

    function test_an_offer_for_another_machine_is_refused() public {
        IResourceRegistry.Offer memory offer = _offer();
        bytes memory signature = _sign(offer, HOST_KEY);
        IMarketplace.JobRequest memory request = _request();
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ResourceUnavailable.selector, resourceId));
        vm.prank(renter);
        market.createJobFromOffer(request, offer, signature, new bytes32[](0));
    }

    function test_the_renters_limits_bind_an_offer_too() public {
        IResourceRegistry.Offer memory offer = _offer();
        offer.pricePerHour = PRICE + 1;
        bytes memory signature = _sign(offer, HOST_KEY);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.PriceAboveMaximum.selector, PRICE + 1, PRICE));
        _take(offer, signature, new bytes32[](0), renter);
        offer = _offer();
        offer.maxSeconds = 1 hours - 1;
        signature = _sign(offer, HOST_KEY);
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.DurationOutOfRange.selector, HOUR, 30, HOUR - 1));
        _take(offer, signature, new bytes32[](0), renter);
        offer = _offer();
        offer.paymentToken = address(vault);
        signature = _sign(offer, HOST_KEY);
        vm.expectRevert(
            abi.encodeWithSelector(IMarketplace.PaymentTokenMismatch.selector, address(vault), address(token))
        );
        _take(offer, signature, new bytes32[](0), renter);
    }

    function test_a_contract_signs_as_erc1271() public {
        Agreeing wallet = new Agreeing();
        _fund(address(wallet));
        machine = _list(address(wallet));
        IResourceRegistry.Offer memory offer = _offer();
        _expectInvalid("signature");
        _take(offer, "", new bytes32[](0), renter);
        wallet.agree(registry.hashOffer(offer));
        _assertStatus(_take(offer, "", new bytes32[](0), renter), IMarketplace.JobStatus.Accepted);
    }

    // ---------------------------------------------------------- access policies

    function test_a_policy_decides_who_may_rent() public {
        address guests = address(new Guests(stranger));
        _expectForbidden();
        vm.prank(stranger);
        registry.setAccessPolicy(machine, guests);
        vm.prank(host);
        registry.setAccessPolicy(machine, guests);
        vm.assertEq(registry.accessPolicyOf(machine), guests);

        IMarketplace.JobRequest memory request = _wanted();
        bytes memory denied = abi.encodeWithSelector(IResourceRegistry.AccessDenied.selector, machine, renter);
        vm.expectRevert(denied);
        vm.prank(renter);
        market.createJob(request);
        vm.expectRevert(denied);
        vm.prank(renter);
        market.createJob(machine, IMAGE, HOUR);
        IResourceRegistry.Offer memory offer = _offer();
        bytes memory signature = _sign(offer, HOST_KEY);
        vm.expectRevert(denied);
        _take(offer, signature, new bytes32[](0), renter);
        vm.prank(stranger);
        bytes32 jobId = market.createJob(request);
        vm.prank(stranger);
        market.cancelJob(jobId);

        vm.prank(host);
        registry.setAccessPolicy(machine, address(0));
        vm.prank(renter);
        market.createJob(request);
    }

    function _expectForbidden() private {
        vm.expectRevert(
            abi.encodeWithSelector(IResourceRegistry.ResourceCallerUnauthorized.selector, machine, stranger)
        );
    }
}
