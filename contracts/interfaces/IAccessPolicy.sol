// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Who may rent a resource
/// @notice A provider's own contract. It is asked when a job is opened and never again: it can refuse a rental, not hold one.
interface IAccessPolicy {
    function isAllowed(bytes32 resourceId, address renter) external view returns (bool);
}
