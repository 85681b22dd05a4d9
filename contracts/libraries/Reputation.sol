// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title The reputation formula
/// @notice Pure integer arithmetic; rates in basis points, points 0..1000. `gpumarket/rules/reputation.py` is the same.
library Reputation {
    uint256 internal constant BPS = 10_000;
    uint256 internal constant MAX_SCORE = 1000;

    /// @notice `count / total` in basis points, rounded down; zero for no total.
    function rate(uint256 count, uint256 total) internal pure returns (uint256) {
        return total == 0 ? 0 : (count * BPS) / total;
    }

    /// @notice `(uptime*0.4 + response*0.2 + completion*0.3 + (1-disputes)*0.1) * 1000`, rounded down once, plus `bonus`, minus
    /// `penalty`, kept in 0..1000.
    /// @dev All four rates must be at most 10000.
    function score(
        uint256 uptime,
        uint256 response,
        uint256 completion,
        uint256 disputes,
        uint256 penalty,
        uint256 bonus
    ) internal pure returns (uint256) {
        uint256 base = (uptime * 4 + response * 2 + completion * 3 + (BPS - disputes)) / 100;
        return Math.min(Math.saturatingSub(base + bonus, penalty), MAX_SCORE);
    }
}
