// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Providers and what they rent out
/// @notice A resource id is its provider's address in the high 160 bits and a counter in the low 96: whoever holds an id knows
/// whom it belongs to. What a resource says of its hardware is declared; the committee's challenges grade it.
interface IResourceRegistry {
    struct ResourceParams {
        string gpuModel; // e.g. "NVIDIA H200"; "CPU-only" when gpuCount is 0
        uint16 gpuCount;
        uint16 vcpu;
        uint32 memoryGB;
        uint32 storageGB;
        uint128 pricePerHour; // base units of paymentToken
        address paymentToken;
        uint32 minSeconds; // shortest rental, and billed at least once started
        uint32 maxSeconds; // longest rental
        bytes32 metadataCid; // more about the machine, zero for none
    }

    struct GPUResource {
        address provider;
        string gpuModel;
        uint16 gpuCount;
        uint16 vcpu;
        uint32 memoryGB;
        uint32 storageGB;
        uint128 pricePerHour;
        address paymentToken;
        uint32 minSeconds;
        uint32 maxSeconds;
        bool available; // the provider's switch; a busy resource is also not rentable
        uint64 totalUptime; // seconds, as reported by the committee
        uint256 reputation; // 0..1000, the provider's
        uint40 registeredAt;
        bytes32 metadataCid;
    }

    /// @notice What the market needs to open a job, one storage read.
    struct Terms {
        uint128 pricePerHour;
        uint32 minSeconds;
        uint32 maxSeconds;
        bool available;
        address paymentToken;
    }

    /// @notice What a provider signs (EIP-712, this contract's domain) so that a job opens already accepted.
    struct Offer {
        bytes32 resourceId;
        uint128 pricePerHour;
        address paymentToken;
        uint32 minSeconds;
        uint32 maxSeconds;
        uint40 validUntil;
        uint64 epoch; // the provider's present one; `cancelOffers` ends it
        bytes32 renters; // Merkle root of keccak256(keccak256(abi.encode(renter))); zero for anybody
    }

    event ProviderRegistered(address indexed provider, string endpoint);
    event ResourceRegistered(
        bytes32 indexed resourceId,
        address indexed provider,
        string gpuModel,
        uint16 gpuCount,
        uint16 vcpu,
        uint32 memoryGB,
        uint32 storageGB,
        uint128 pricePerHour,
        address paymentToken,
        uint32 minSeconds,
        uint32 maxSeconds,
        bytes32 metadataCid
    );
    event AvailabilityUpdated(bytes32 indexed resourceId, bool available);
    event PricingUpdated(bytes32 indexed resourceId, uint128 newPrice);
    event AccessPolicyUpdated(bytes32 indexed resourceId, address policy);
    event ReclaimNoticeUpdated(bytes32 indexed resourceId, uint8 noticeHours);
    event OffersCancelled(address indexed provider, uint64 epoch);
    event UptimeUpdated(bytes32 indexed resourceId, uint64 totalUptime);

    error ResourceMissing(bytes32 resourceId);
    error ResourceCallerUnauthorized(bytes32 resourceId, address caller);
    error ResourceParamsInvalid(string field);
    error ProviderNotRegistered(address provider);
    error EndpointInvalid(uint256 size);
    error CallerNotCommittee(address caller);
    error PaymentTokenNotAllowed(address token);
    error AccessDenied(bytes32 resourceId, address renter);
    error OfferInvalid(string field);

    /// @notice Registers the caller, or changes its endpoint.
    /// @param endpoint Public URL of the provider's agent, 1..256 bytes
    function registerProvider(string calldata endpoint) external;

    /// @notice One GPU, the default payment token, rentals of one minute to thirty days.
    function registerResource(
        string calldata gpuModel,
        uint16 vcpu,
        uint32 memoryGB,
        uint32 storageGB,
        uint256 pricePerHour
    ) external returns (bytes32 resourceId);

    /// @notice Lists a machine, available at once. Needs a registered provider and the minimum stake for one more resource.
    function registerResource(ResourceParams calldata params) external returns (bytes32 resourceId);

    function updateAvailability(bytes32 resourceId, bool available) external;

    /// @notice Touches jobs opened from now on only.
    function updatePricing(bytes32 resourceId, uint256 newPrice) external;

    /// @notice A contract that decides who may rent; zero for anybody. For jobs opened from now on.
    function setAccessPolicy(bytes32 resourceId, address policy) external;

    /// @notice Hours of notice with which a running job may be reclaimed; zero for never. For jobs opened from now on.
    function setReclaimNotice(bytes32 resourceId, uint8 noticeHours) external;

    /// @notice Makes every offer the caller signed so far worthless.
    function cancelOffers() external;

    /// @notice Committee only.
    function updateUptime(bytes32 resourceId, uint64 additionalSeconds) external;

    function getResource(bytes32 resourceId) external view returns (GPUResource memory);
    function getProviderResources(address provider) external view returns (bytes32[] memory);
    function termsOf(bytes32 resourceId) external view returns (Terms memory);
    /// @notice `termsOf`, if the access policy lets `renter` in, and the notice of a reclaim.
    function termsFor(bytes32 resourceId, address renter) external view returns (Terms memory, uint8 reclaimHours);

    /// @notice `termsFor` on the terms of a signed offer.
    function offeredTerms(Offer calldata offer, bytes calldata signature, address renter, bytes32[] calldata proof)
        external
        view
        returns (Terms memory, uint8 reclaimHours);
    function hashOffer(Offer calldata offer) external view returns (bytes32);
    function offerEpochOf(address provider) external view returns (uint64);
    function accessPolicyOf(bytes32 resourceId) external view returns (address);
    function reclaimNoticeOf(bytes32 resourceId) external view returns (uint8);
    function endpointOf(address provider) external view returns (string memory);
    function resourceCountOf(address provider) external view returns (uint32);
    function totalResources() external view returns (uint256);
}
