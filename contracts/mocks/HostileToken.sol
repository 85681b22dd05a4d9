// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A token that can be told to misbehave in the ways real ones do. For tests.
contract HostileToken is ERC20 {
    uint256 public feeBps;
    bool public returnsFalse;
    mapping(address account => bool) public blocked;
    address public callTarget;
    bytes public callData;
    bool public callSucceeded;
    bytes public callResult;

    error AccountBlocked(address account);

    constructor() ERC20("Hostile", "HOST") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @notice Keeps `bps` of every transfer.
    function setFee(uint256 bps) external {
        feeBps = bps;
    }

    /// @notice Transfers do nothing and say so.
    function setReturnsFalse(bool value) external {
        returnsFalse = value;
    }

    /// @notice Transfers to or from `account` revert, as with a stable coin's block list.
    function setBlocked(address account, bool value) external {
        blocked[account] = value;
    }

    /// @notice Calls `target` with `data` in the middle of every transfer.
    function setCall(address target, bytes calldata data) external {
        callTarget = target;
        callData = data;
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return !returnsFalse && super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        return !returnsFalse && super.transferFrom(from, to, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (blocked[from]) revert AccountBlocked(from);
        if (blocked[to]) revert AccountBlocked(to);
        uint256 fee = from == address(0) || to == address(0) ? 0 : amount * feeBps / 10_000;
        super._update(from, to, amount - fee);
        if (fee > 0) super._update(from, address(0), fee);
        if (callTarget != address(0)) {
            (callSucceeded, callResult) = callTarget.call(callData);
        }
    }

    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }
}
