// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Reputation} from "../libraries/Reputation.sol";
import {Settlement} from "../libraries/Settlement.sol";

/// @notice The two libraries as calls, so that the Python mirror can be held against them.
contract SettlementHarness {
    function lockUp(uint256 pricePerHour, uint256 duration) external pure returns (uint256) {
        return Settlement.lockUp(pricePerHour, duration);
    }

    function cost(uint256 pricePerHour, uint256 billed) external pure returns (uint256) {
        return Settlement.cost(pricePerHour, billed);
    }

    function fee(uint256 amount, uint256 feeBps) external pure returns (uint256) {
        return Settlement.fee(amount, feeBps);
    }

    function billableSeconds(
        uint256 startedAt,
        uint256 endedAt,
        uint256 outageSeconds,
        uint256 minSeconds,
        uint256 duration
    ) external pure returns (uint256) {
        return Settlement.billableSeconds(startedAt, endedAt, outageSeconds, minSeconds, duration);
    }

    function accrued(uint256 pricePerHour, uint256 billed, uint256 settled) external pure returns (uint256) {
        return Settlement.accrued(pricePerHour, billed, settled);
    }

    function split(uint256 amount) external pure returns (uint256 toProvider, uint256 toUser) {
        return Settlement.split(amount);
    }

    function rate(uint256 count, uint256 total) external pure returns (uint256) {
        return Reputation.rate(count, total);
    }

    function score(
        uint256 uptime,
        uint256 response,
        uint256 completion,
        uint256 disputes,
        uint256 penalty,
        uint256 bonus
    ) external pure returns (uint256) {
        return Reputation.score(uptime, response, completion, disputes, penalty, bonus);
    }
}
