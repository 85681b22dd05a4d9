// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @notice The payment token that gas is measured with: OpenZeppelin's, with permits and nothing more. For tests.
contract PlainToken is ERC20, ERC20Permit {
    constructor(address holder, uint256 supply) ERC20("Plain", "PLAIN") ERC20Permit("Plain") {
        _mint(holder, supply);
    }
}
