// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../contracts/interfaces/IMarketplace.sol";
import {IResourceRegistry} from "../../contracts/interfaces/IResourceRegistry.sol";
import {MarketTest} from "./support/MarketTest.sol";

contract ResourceRegistryTest is MarketTest {
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
    event UptimeUpdated(bytes32 indexed resourceId, uint64 totalUptime);

    function _params() private view returns (IResourceRegistry.ResourceParams memory) {
        return
            IResourceRegistry.ResourceParams(
                "NVIDIA B200", 8, 192, 2048, 4000, PRICE, address(token), 300, 7 days, RESULT
            );
    }

    function _expectInvalid(string memory field) private {
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.ResourceParamsInvalid.selector, field));
    }

    // ---------------------------------------------------------------- provider

    function test_register_provider_default_behavior() public {
        vm.expectEmit(address(registry));
        emit ProviderRegistered(stranger, "https://a.example");
        vm.startPrank(stranger);
        registry.registerProvider("https://a.example");
        vm.assertEq(registry.endpointOf(stranger), "https://a.example");
        registry.registerProvider("https://b.example");
        vm.assertEq(registry.endpointOf(stranger), "https://b.example");
        vm.stopPrank();
    }

    function test_endpoint_size_bounds() public {
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.EndpointInvalid.selector, 0));
        registry.registerProvider("");
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.EndpointInvalid.selector, 257));
        registry.registerProvider(string(new bytes(257)));
        registry.registerProvider(string(new bytes(256)));
    }

    // ---------------------------------------------------------------- resource

    function test_register_resource_default_behavior() public {
        bytes32 expected = bytes32((uint256(uint160(provider)) << 96) | 2);
        vm.startPrank(provider);
        vault.stake(STAKE);
        vm.expectEmit(address(registry));
        emit ResourceRegistered(
            expected, provider, "NVIDIA B200", 8, 192, 2048, 4000, PRICE, address(token), 300, 7 days, RESULT
        );
        bytes32 id = registry.registerResource(_params());
        vm.stopPrank();

        vm.assertEq(id, expected);
        IResourceRegistry.GPUResource memory resource = registry.getResource(id);
        vm.assertEq(resource.provider, provider);
        vm.assertEq(resource.gpuModel, "NVIDIA B200");
        vm.assertEq(resource.gpuCount, 8);
        vm.assertEq(resource.vcpu, 192);
        vm.assertEq(resource.memoryGB, 2048);
        vm.assertEq(resource.storageGB, 4000);
        vm.assertEq(resource.pricePerHour, PRICE);
        vm.assertEq(resource.paymentToken, address(token));
        vm.assertEq(resource.minSeconds, 300);
        vm.assertEq(resource.maxSeconds, 7 days);
        vm.assertTrue(resource.available);
        vm.assertEq(resource.registeredAt, _now());
        vm.assertEq(resource.metadataCid, RESULT);
        vm.assertEq(registry.resourceCountOf(provider), 2);
        vm.assertEq(registry.totalResources(), 2);
        vm.assertEq(registry.getProviderResources(provider)[1], id);
        IResourceRegistry.Terms memory terms = registry.termsOf(id);
        vm.assertEq(terms.minSeconds, 300);
        vm.assertEq(terms.paymentToken, address(token));
    }

    function test_the_short_form_lists_one_gpu_for_a_minute_to_thirty_days() public view {
        IResourceRegistry.GPUResource memory resource = registry.getResource(resourceId);
        vm.assertEq(resource.gpuCount, 1);
        vm.assertEq(resource.minSeconds, 60);
        vm.assertEq(resource.maxSeconds, 30 days);
        vm.assertEq(resource.metadataCid, bytes32(0));
    }

    function test_needs_a_registered_provider() public {
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.ProviderNotRegistered.selector, stranger));
        vm.prank(stranger);
        registry.registerResource("x", 1, 1, 1, 1);
    }

    function test_needs_stake_for_one_more_machine() public {
        vm.expectRevert(abi.encodeWithSelector(IMarketplace.ProviderStakeTooLow.selector, provider, STAKE, 2 * STAKE));
        vm.prank(provider);
        registry.registerResource("x", 1, 1, 1, 1);
    }

    function test_needs_an_allowed_token() public {
        IResourceRegistry.ResourceParams memory params = _params();
        params.paymentToken = address(7);
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.PaymentTokenNotAllowed.selector, address(7)));
        vm.prank(provider);
        registry.registerResource(params);
    }

    function test_invalid_params() public {
        IResourceRegistry.ResourceParams memory params = _params();
        params.gpuModel = "";
        _expectInvalid("gpuModel");
        registry.registerResource(params);
        params.gpuModel = string(new bytes(65));
        _expectInvalid("gpuModel");
        registry.registerResource(params);
        params = _params();
        params.vcpu = 0;
        _expectInvalid("vcpu");
        registry.registerResource(params);
        params = _params();
        params.memoryGB = 0;
        _expectInvalid("memoryGB");
        registry.registerResource(params);
        params = _params();
        params.pricePerHour = 0;
        _expectInvalid("pricePerHour");
        registry.registerResource(params);
        params = _params();
        params.minSeconds = 0;
        _expectInvalid("minSeconds");
        registry.registerResource(params);
        params = _params();
        params.maxSeconds = params.minSeconds - 1;
        _expectInvalid("maxSeconds");
        registry.registerResource(params);
        _expectInvalid("pricePerHour");
        registry.registerResource("x", 1, 1, 1, uint256(type(uint128).max) + 1);
    }

    // ----------------------------------------------------------------- updates

    function test_updates_default_behavior() public {
        vm.startPrank(provider);
        vm.expectEmit(address(registry));
        emit AvailabilityUpdated(resourceId, false);
        registry.updateAvailability(resourceId, false);
        vm.assertFalse(registry.termsOf(resourceId).available);
        vm.expectEmit(address(registry));
        emit PricingUpdated(resourceId, 7);
        registry.updatePricing(resourceId, 7);
        vm.assertEq(registry.termsOf(resourceId).pricePerHour, 7);
        _expectInvalid("pricePerHour");
        registry.updatePricing(resourceId, 0);
        vm.stopPrank();
    }

    function test_updates_are_the_owners() public {
        bytes memory expected =
            abi.encodeWithSelector(IResourceRegistry.ResourceCallerUnauthorized.selector, resourceId, stranger);
        vm.startPrank(stranger);
        vm.expectRevert(expected);
        registry.updateAvailability(resourceId, false);
        vm.expectRevert(expected);
        registry.updatePricing(resourceId, 7);
        vm.stopPrank();
    }

    function test_a_resource_nobody_listed() public {
        bytes32 id = bytes32((uint256(uint160(provider)) << 96) | 9);
        bytes memory expected = abi.encodeWithSelector(IResourceRegistry.ResourceMissing.selector, id);
        vm.startPrank(provider);
        vm.expectRevert(expected);
        registry.updateAvailability(id, false);
        vm.expectRevert(expected);
        registry.updatePricing(id, 7);
        vm.expectRevert(expected);
        registry.getResource(id);
        vm.expectRevert(expected);
        registry.termsOf(id);
        vm.stopPrank();
    }

    function test_uptime_is_the_committees() public {
        vm.expectRevert(abi.encodeWithSelector(IResourceRegistry.CallerNotCommittee.selector, provider));
        vm.prank(provider);
        registry.updateUptime(resourceId, 5);
        vm.startPrank(address(committee));
        registry.updateUptime(resourceId, 5);
        vm.expectEmit(address(registry));
        emit UptimeUpdated(resourceId, 12);
        registry.updateUptime(resourceId, 7);
        vm.stopPrank();
        vm.assertEq(registry.getResource(resourceId).totalUptime, 12);
    }
}
