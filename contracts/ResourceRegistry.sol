// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControlUpgradeable} from "@openzeppelin/contracts-upgradeable/access/AccessControlUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {EIP712Upgradeable} from "@openzeppelin/contracts-upgradeable/utils/cryptography/EIP712Upgradeable.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IAccessPolicy} from "./interfaces/IAccessPolicy.sol";
import {IMarketplace} from "./interfaces/IMarketplace.sol";
import {IPaymentEscrow} from "./interfaces/IPaymentEscrow.sol";
import {IReputationSystem} from "./interfaces/IReputationSystem.sol";
import {IResourceRegistry} from "./interfaces/IResourceRegistry.sol";
import {IStakeVault} from "./interfaces/IStakeVault.sol";

/// @title Providers and what they rent out
/// @dev A provider's resources are numbered from 1. Resource number n needs stake for n machines, here and when a job on it is accepted.
contract ResourceRegistry is IResourceRegistry, AccessControlUpgradeable, EIP712Upgradeable, UUPSUpgradeable {
    struct Resource {
        // slot 0: all the market needs
        uint128 pricePerHour;
        uint32 minSeconds;
        uint32 maxSeconds;
        bool available;
        bool otherToken; // not the default token: see `paymentToken`
        uint16 gpuCount;
        uint16 vcpu;
        uint8 reclaimHours;
        bool restricted; // see `accessPolicies`
        // slot 1
        uint32 memoryGB;
        uint32 storageGB;
        uint40 registeredAt;
        uint64 totalUptime;
        // slot 2, only if not the default token
        address paymentToken;
        // slot 3, only if given
        bytes32 metadataCid;
        // slot 4
        string gpuModel;
    }

    struct Provider {
        uint32 resourceCount;
        string endpoint;
    }

    /// @custom:storage-location erc7201:gpumarket.storage.ResourceRegistry
    struct Storage {
        mapping(bytes32 resourceId => Resource) resources;
        mapping(address provider => Provider) providers;
        uint256 totalResources;
        mapping(bytes32 resourceId => address) accessPolicies;
        mapping(address provider => uint64) offerEpochs;
    }

    bytes32 private constant STORAGE_SLOT =
        keccak256(abi.encode(uint256(keccak256("gpumarket.storage.ResourceRegistry")) - 1)) & ~bytes32(uint256(0xff));

    bytes32 private constant OFFER_TYPEHASH = keccak256(
        "Offer(bytes32 resourceId,uint128 pricePerHour,address paymentToken,uint32 minSeconds,uint32 maxSeconds,uint40 validUntil,uint64 epoch,bytes32 renters)"
    );

    uint256 public constant MAX_ENDPOINT_BYTES = 256;
    uint256 public constant MAX_MODEL_BYTES = 64;
    uint32 private constant MAX_RESOURCES = type(uint24).max; // the market keeps 24 bits of it
    uint32 private constant DEFAULT_MIN_SECONDS = 1 minutes;
    uint32 private constant DEFAULT_MAX_SECONDS = 30 days;

    IPaymentEscrow public immutable escrow;
    IStakeVault public immutable stakeVault;
    IReputationSystem public immutable reputationSystem;
    address public immutable committee;
    address public immutable defaultToken;

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor(
        IPaymentEscrow escrow_,
        IStakeVault stakeVault_,
        IReputationSystem reputationSystem_,
        address committee_,
        address defaultToken_
    ) {
        escrow = escrow_;
        stakeVault = stakeVault_;
        reputationSystem = reputationSystem_;
        committee = committee_;
        defaultToken = defaultToken_;
        _disableInitializers();
    }

    /// @param admin May upgrade this contract
    function initialize(address admin) external initializer {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    // ---------------------------------------------------------------- provider

    /// @inheritdoc IResourceRegistry
    function registerProvider(string calldata endpoint) external {
        uint256 size = bytes(endpoint).length;
        if (size == 0 || size > MAX_ENDPOINT_BYTES) revert EndpointInvalid(size);

        _storage().providers[msg.sender].endpoint = endpoint;
        emit ProviderRegistered(msg.sender, endpoint);
    }

    /// @inheritdoc IResourceRegistry
    function registerResource(
        string calldata gpuModel,
        uint16 vcpu,
        uint32 memoryGB,
        uint32 storageGB,
        uint256 pricePerHour
    ) external returns (bytes32 resourceId) {
        return _register(
            ResourceParams({
                gpuModel: gpuModel,
                gpuCount: 1,
                vcpu: vcpu,
                memoryGB: memoryGB,
                storageGB: storageGB,
                pricePerHour: _toPrice(pricePerHour),
                paymentToken: defaultToken,
                minSeconds: DEFAULT_MIN_SECONDS,
                maxSeconds: DEFAULT_MAX_SECONDS,
                metadataCid: bytes32(0)
            })
        );
    }

    /// @inheritdoc IResourceRegistry
    function registerResource(ResourceParams calldata params) external returns (bytes32 resourceId) {
        return _register(params);
    }

    /// @inheritdoc IResourceRegistry
    function updateAvailability(bytes32 resourceId, bool available) external {
        Resource storage resource = _owned(resourceId);
        resource.available = available;
        emit AvailabilityUpdated(resourceId, available);
    }

    /// @inheritdoc IResourceRegistry
    function updatePricing(bytes32 resourceId, uint256 newPrice) external {
        Resource storage resource = _owned(resourceId);
        uint128 price = _toPrice(newPrice);
        resource.pricePerHour = price;
        emit PricingUpdated(resourceId, price);
    }

    /// @inheritdoc IResourceRegistry
    function setAccessPolicy(bytes32 resourceId, address policy) external {
        _owned(resourceId).restricted = policy != address(0);
        _storage().accessPolicies[resourceId] = policy;
        emit AccessPolicyUpdated(resourceId, policy);
    }

    /// @inheritdoc IResourceRegistry
    function setReclaimNotice(bytes32 resourceId, uint8 noticeHours) external {
        _owned(resourceId).reclaimHours = noticeHours;
        emit ReclaimNoticeUpdated(resourceId, noticeHours);
    }

    /// @inheritdoc IResourceRegistry
    function cancelOffers() external {
        uint64 epoch = ++_storage().offerEpochs[msg.sender];
        emit OffersCancelled(msg.sender, epoch);
    }

    // --------------------------------------------------------------- committee

    /// @inheritdoc IResourceRegistry
    function updateUptime(bytes32 resourceId, uint64 additionalSeconds) external {
        if (msg.sender != committee) revert CallerNotCommittee(msg.sender);
        Resource storage resource = _existing(resourceId);
        uint64 totalUptime = resource.totalUptime + additionalSeconds;
        resource.totalUptime = totalUptime;
        emit UptimeUpdated(resourceId, totalUptime);
    }

    // ------------------------------------------------------------------- views

    /// @inheritdoc IResourceRegistry
    function getResource(bytes32 resourceId) external view returns (GPUResource memory) {
        Resource storage resource = _existing(resourceId);
        address provider = _providerOf(resourceId);
        return GPUResource({
            provider: provider,
            gpuModel: resource.gpuModel,
            gpuCount: resource.gpuCount,
            vcpu: resource.vcpu,
            memoryGB: resource.memoryGB,
            storageGB: resource.storageGB,
            pricePerHour: resource.pricePerHour,
            paymentToken: _tokenOf(resource),
            minSeconds: resource.minSeconds,
            maxSeconds: resource.maxSeconds,
            available: resource.available,
            totalUptime: resource.totalUptime,
            reputation: reputationSystem.getReputation(provider),
            registeredAt: resource.registeredAt,
            metadataCid: resource.metadataCid
        });
    }

    function getProviderResources(address provider) external view returns (bytes32[] memory ids) {
        uint256 count = _storage().providers[provider].resourceCount;
        ids = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            ids[i] = _resourceId(provider, i + 1);
        }
    }

    /// @inheritdoc IResourceRegistry
    function termsOf(bytes32 resourceId) external view returns (Terms memory) {
        return _termsOf(_existing(resourceId));
    }

    /// @inheritdoc IResourceRegistry
    function termsFor(bytes32 resourceId, address renter)
        external
        view
        returns (Terms memory terms, uint8 reclaimHours)
    {
        Resource storage resource = _existing(resourceId);
        _checkAccess(resource, resourceId, renter);
        return (_termsOf(resource), resource.reclaimHours);
    }

    /// @inheritdoc IResourceRegistry
    function offeredTerms(Offer calldata offer, bytes calldata signature, address renter, bytes32[] calldata proof)
        external
        view
        returns (Terms memory terms, uint8 reclaimHours)
    {
        Resource storage resource = _existing(offer.resourceId);
        address provider = _providerOf(offer.resourceId);
        if (block.timestamp > offer.validUntil) revert OfferInvalid("validUntil");
        if (offer.epoch != _storage().offerEpochs[provider]) revert OfferInvalid("epoch");
        if (offer.pricePerHour == 0) revert OfferInvalid("pricePerHour");
        if (offer.minSeconds == 0) revert OfferInvalid("minSeconds");
        if (
            offer.renters != bytes32(0)
                && !MerkleProof.verifyCalldata(
                    proof, offer.renters, keccak256(bytes.concat(keccak256(abi.encode(renter))))
                )
        ) revert OfferInvalid("renters");
        if (!SignatureChecker.isValidSignatureNowCalldata(provider, hashOffer(offer), signature)) {
            revert OfferInvalid("signature");
        }
        _checkAccess(resource, offer.resourceId, renter);
        terms = Terms({
            pricePerHour: offer.pricePerHour,
            minSeconds: offer.minSeconds,
            maxSeconds: offer.maxSeconds,
            available: resource.available,
            paymentToken: offer.paymentToken
        });
        return (terms, resource.reclaimHours);
    }

    /// @inheritdoc IResourceRegistry
    function hashOffer(Offer calldata offer) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(OFFER_TYPEHASH, offer)));
    }

    function offerEpochOf(address provider) external view returns (uint64) {
        return _storage().offerEpochs[provider];
    }

    function accessPolicyOf(bytes32 resourceId) external view returns (address) {
        return _storage().accessPolicies[resourceId];
    }

    function reclaimNoticeOf(bytes32 resourceId) external view returns (uint8) {
        return _storage().resources[resourceId].reclaimHours;
    }

    function endpointOf(address provider) external view returns (string memory) {
        return _storage().providers[provider].endpoint;
    }

    function resourceCountOf(address provider) external view returns (uint32) {
        return _storage().providers[provider].resourceCount;
    }

    function totalResources() external view returns (uint256) {
        return _storage().totalResources;
    }

    // ----------------------------------------------------------------- private

    function _register(ResourceParams memory params) private returns (bytes32 resourceId) {
        // Check
        _checkParams(params);
        if (!escrow.isTokenAllowed(params.paymentToken)) revert PaymentTokenNotAllowed(params.paymentToken);
        Storage storage $ = _storage();
        Provider storage provider = $.providers[msg.sender];
        if (bytes(provider.endpoint).length == 0) revert ProviderNotRegistered(msg.sender);
        uint32 number = provider.resourceCount + 1;
        if (number > MAX_RESOURCES) revert ResourceParamsInvalid("resources");
        uint256 staked = stakeVault.stakeOf(msg.sender).active;
        uint256 required = stakeVault.requiredStake(number);
        if (staked < required) revert IMarketplace.ProviderStakeTooLow(msg.sender, staked, required);

        // Effect
        provider.resourceCount = number;
        $.totalResources += 1;
        resourceId = _resourceId(msg.sender, number);
        _write($.resources[resourceId], params);
        emit ResourceRegistered(
            resourceId,
            msg.sender,
            params.gpuModel,
            params.gpuCount,
            params.vcpu,
            params.memoryGB,
            params.storageGB,
            params.pricePerHour,
            params.paymentToken,
            params.minSeconds,
            params.maxSeconds,
            params.metadataCid
        );
    }

    function _write(Resource storage resource, ResourceParams memory params) private {
        resource.pricePerHour = params.pricePerHour;
        resource.minSeconds = params.minSeconds;
        resource.maxSeconds = params.maxSeconds;
        resource.available = true;
        resource.otherToken = params.paymentToken != defaultToken;
        resource.gpuCount = params.gpuCount;
        resource.vcpu = params.vcpu;
        resource.memoryGB = params.memoryGB;
        resource.storageGB = params.storageGB;
        resource.registeredAt = uint40(block.timestamp);
        if (params.paymentToken != defaultToken) resource.paymentToken = params.paymentToken;
        if (params.metadataCid != bytes32(0)) resource.metadataCid = params.metadataCid;
        resource.gpuModel = params.gpuModel;
    }

    function _checkParams(ResourceParams memory params) private pure {
        uint256 size = bytes(params.gpuModel).length;
        if (size == 0 || size > MAX_MODEL_BYTES) revert ResourceParamsInvalid("gpuModel");
        if (params.vcpu == 0) revert ResourceParamsInvalid("vcpu");
        if (params.memoryGB == 0) revert ResourceParamsInvalid("memoryGB");
        if (params.pricePerHour == 0) revert ResourceParamsInvalid("pricePerHour");
        if (params.minSeconds == 0) revert ResourceParamsInvalid("minSeconds");
        if (params.maxSeconds < params.minSeconds) revert ResourceParamsInvalid("maxSeconds");
    }

    function _termsOf(Resource storage resource) private view returns (Terms memory) {
        return Terms({
            pricePerHour: resource.pricePerHour,
            minSeconds: resource.minSeconds,
            maxSeconds: resource.maxSeconds,
            available: resource.available,
            paymentToken: _tokenOf(resource)
        });
    }

    function _checkAccess(Resource storage resource, bytes32 resourceId, address renter) private view {
        if (!resource.restricted) return;
        if (!IAccessPolicy(_storage().accessPolicies[resourceId]).isAllowed(resourceId, renter)) {
            revert AccessDenied(resourceId, renter);
        }
    }

    function _toPrice(uint256 price) private pure returns (uint128) {
        if (price == 0 || price > type(uint128).max) revert ResourceParamsInvalid("pricePerHour");
        return uint128(price);
    }

    function _owned(bytes32 resourceId) private view returns (Resource storage resource) {
        resource = _existing(resourceId);
        if (_providerOf(resourceId) != msg.sender) revert ResourceCallerUnauthorized(resourceId, msg.sender);
    }

    function _existing(bytes32 resourceId) private view returns (Resource storage resource) {
        resource = _storage().resources[resourceId];
        if (resource.maxSeconds == 0) revert ResourceMissing(resourceId);
    }

    function _tokenOf(Resource storage resource) private view returns (address) {
        return resource.otherToken ? resource.paymentToken : defaultToken;
    }

    function _resourceId(address provider, uint256 number) private pure returns (bytes32) {
        return bytes32((uint256(uint160(provider)) << 96) | number);
    }

    function _providerOf(bytes32 resourceId) private pure returns (address) {
        return address(uint160(uint256(resourceId) >> 96));
    }

    function _storage() private pure returns (Storage storage $) {
        bytes32 slot = STORAGE_SLOT;
        assembly ("memory-safe") {
            $.slot := slot
        }
    }

    function _EIP712Name() internal pure override returns (string memory) {
        return "gpumarket ResourceRegistry";
    }

    function _EIP712Version() internal pure override returns (string memory) {
        return "1";
    }

    function _authorizeUpgrade(address) internal override onlyRole(DEFAULT_ADMIN_ROLE) {}
}
