// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title The market's token: payment, stake and votes
/// @notice The whole supply is minted once, at deployment; it can only shrink, when a slash burns some. 18 decimals. Votes are
/// counted by timestamp, so that governance periods mean the same on every chain.
contract GPUToken is ERC20, ERC20Burnable, ERC20Permit, ERC20Votes {
    /// @param holder Receives the whole supply
    /// @param supply Base units
    constructor(address holder, uint256 supply) ERC20("GPU Token", "GPU") ERC20Permit("GPU Token") {
        _mint(holder, supply);
    }

    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
