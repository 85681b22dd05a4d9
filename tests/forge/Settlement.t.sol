// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Vm} from "./support/Vm.sol";
import {Settlement} from "../../contracts/libraries/Settlement.sol";

/// @notice The money math alone, beyond what a market lets happen.
contract SettlementTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    function test_never_more_than_the_paid_time_is_billed() public pure {
        vm.assertEq(Settlement.billableSeconds(1, 1001, 0, 0, 500), 500);
        vm.assertEq(Settlement.billableSeconds(1, 101, 0, 600, 500), 500);
    }

    function testFuzz_settling_in_parts_pays_what_settling_once_does(uint96 price, uint32 first, uint32 second)
        public
        pure
    {
        uint256 billed = uint256(first) + second;
        uint256 parts = Settlement.accrued(price, first, 0) + Settlement.accrued(price, billed, first);
        vm.assertEq(parts, Settlement.cost(price, billed));
        vm.assertLe(Settlement.cost(price, billed), Settlement.lockUp(price, billed));
    }

    function testFuzz_a_split_loses_nothing(uint96 amount) public pure {
        (uint256 toProvider, uint256 toUser) = Settlement.split(amount);
        vm.assertEq(toProvider + toUser, amount);
        vm.assertLe(toProvider, toUser);
        vm.assertLe(toUser - toProvider, 1);
    }
}
