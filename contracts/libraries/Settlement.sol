// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title All money math
/// @notice Pure. Amounts are token base units, prices base units per hour, times seconds. Every function says which way it
/// rounds. `gpumarket/rules/settlement.py` is the same arithmetic; a test holds the two together.
library Settlement {
    uint256 internal constant HOUR = 3600;
    uint256 internal constant BPS = 10_000;

    /// @notice What a renter pays in for `duration` seconds. Rounded up, so the lock always covers the cost.
    function lockUp(uint256 pricePerHour, uint256 duration) internal pure returns (uint256) {
        return Math.ceilDiv(pricePerHour * duration, HOUR);
    }

    /// @notice What `billed` seconds cost. Rounded down, in the renter's favour.
    function cost(uint256 pricePerHour, uint256 billed) internal pure returns (uint256) {
        return (pricePerHour * billed) / HOUR;
    }

    /// @notice The platform's part of `amount`. Rounded down, in the provider's favour.
    function fee(uint256 amount, uint256 feeBps) internal pure returns (uint256) {
        return (amount * feeBps) / BPS;
    }

    /// @notice Seconds to bill for a clock that began at `startedAt` and stops at `endedAt`: running less outage, at least
    /// `minSeconds`, at most `duration`. Zero if it never began. The caller passes an `endedAt` inside the paid time.
    function billableSeconds(
        uint256 startedAt,
        uint256 endedAt,
        uint256 outageSeconds,
        uint256 minSeconds,
        uint256 duration
    ) internal pure returns (uint256) {
        if (startedAt == 0) return 0;
        uint256 proven = Math.saturatingSub(Math.saturatingSub(endedAt, startedAt), outageSeconds);
        return Math.min(Math.max(proven, minSeconds), duration);
    }

    /// @notice What is still owed for `billed` seconds when `settled` of them are paid: the difference of the two costs, so
    /// that any number of settlements adds up to one. Zero if more was settled than is now billable.
    function accrued(uint256 pricePerHour, uint256 billed, uint256 settled) internal pure returns (uint256) {
        return billed > settled ? cost(pricePerHour, billed) - cost(pricePerHour, settled) : 0;
    }

    /// @notice Halves `amount`; the odd unit goes to the renter.
    function split(uint256 amount) internal pure returns (uint256 toProvider, uint256 toUser) {
        toProvider = amount / 2;
        toUser = amount - toProvider;
    }
}
