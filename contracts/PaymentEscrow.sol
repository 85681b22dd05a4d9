// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IPaymentEscrow} from "./interfaces/IPaymentEscrow.sol";
import {Settlement} from "./libraries/Settlement.sol";

/// @title Every token of every job
/// @dev Trust: the market may lock what an account allowed to, or keeps in, this contract. It can never pay a job's money to
/// anyone but the job's renter, its provider, and the fee. The admin chooses tokens and takes fees, nothing else.
contract PaymentEscrow is IPaymentEscrow, AccessControl, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    struct Record {
        // slot 0
        address user;
        uint96 locked;
        // slot 1
        address provider;
        uint16 tokenIndex;
        uint16 feeBps;
        uint64 memo;
    }

    struct Token {
        uint16 index;
        bool known;
        bool allowed;
    }

    uint16 public constant MAX_FEE_BPS = 500;
    uint16 public constant MAX_TOKENS = 64;
    address public immutable marketplace;

    mapping(bytes32 jobId => Record) private _records;
    mapping(uint16 tokenIndex => mapping(address account => uint256)) private _balances;
    mapping(uint16 tokenIndex => uint256) private _fees;
    mapping(address token => Token) private _tokens;
    mapping(uint16 tokenIndex => address) private _tokenAt;
    uint16 private _tokenCount;

    modifier onlyMarketplace() {
        if (msg.sender != marketplace) revert CallerNotMarketplace(msg.sender);
        _;
    }

    constructor(address admin, address market) {
        marketplace = market;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    // --------------------------------------------------------- accounts: pull

    /// @inheritdoc IPaymentEscrow
    function deposit(address token, uint256 amount) external nonReentrant {
        uint16 index = _allowedIndex(token);
        if (amount == 0) revert AmountZero();

        _balances[index][msg.sender] += amount;
        emit Deposited(msg.sender, token, amount);
        _receive(token, msg.sender, amount);
    }

    /// @inheritdoc IPaymentEscrow
    function withdraw(address token, uint256 amount, address to) external nonReentrant {
        if (!_tokens[token].known) revert TokenNotAllowed(token);
        if (amount == 0) revert AmountZero();
        if (to == address(0)) revert RecipientZero();
        uint16 index = _tokens[token].index;
        uint256 balance = _balances[index][msg.sender];
        if (balance < amount) revert BalanceInsufficient(msg.sender, token, balance, amount);

        _balances[index][msg.sender] = balance - amount;
        emit Withdrawn(msg.sender, token, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    // -------------------------------------------------------- the market only

    /// @inheritdoc IPaymentEscrow
    function lockFunds(
        bytes32 jobId,
        address token,
        uint96 amount,
        address user,
        address provider,
        uint16 feeBps,
        uint64 memo
    ) external onlyMarketplace nonReentrant {
        uint16 index = _allowedIndex(token);
        if (feeBps > MAX_FEE_BPS) revert FeeAboveCap(feeBps, MAX_FEE_BPS);
        if (_records[jobId].user != address(0)) revert EscrowExists(jobId);

        _records[jobId] = Record(user, amount, provider, index, feeBps, memo);
        emit FundsLocked(jobId, user, token, amount);
        _take(token, index, user, amount);
    }

    /// @inheritdoc IPaymentEscrow
    function addFunds(bytes32 jobId, uint96 amount, address payer) external onlyMarketplace nonReentrant {
        Record storage record = _existing(jobId);
        uint256 locked = uint256(record.locked) + amount;
        if (locked > type(uint96).max) revert AmountTooLarge(locked);
        uint16 index = record.tokenIndex;
        address token = _tokenAt[index];

        record.locked = uint96(locked);
        emit FundsLocked(jobId, payer, token, amount);
        _take(token, index, payer, amount);
    }

    /// @inheritdoc IPaymentEscrow
    function releaseFunds(bytes32 jobId, uint96 actualCost) external onlyMarketplace returns (address provider) {
        Record storage record = _existing(jobId);
        uint96 locked = record.locked;
        if (actualCost > locked) revert EscrowInsufficient(jobId, locked, actualCost);

        record.locked = 0;
        provider = record.provider;
        if (actualCost > 0) _payProvider(jobId, record, actualCost);
        if (locked > actualCost) _payUser(jobId, record, locked - actualCost);
    }

    /// @inheritdoc IPaymentEscrow
    function partialRelease(bytes32 jobId, uint96 amount) external onlyMarketplace {
        Record storage record = _unlock(jobId, amount);
        _payProvider(jobId, record, amount);
    }

    /// @inheritdoc IPaymentEscrow
    function refund(bytes32 jobId, uint96 amount) external onlyMarketplace {
        Record storage record = _unlock(jobId, amount);
        _payUser(jobId, record, amount);
    }

    /// @inheritdoc IPaymentEscrow
    function refundAbove(bytes32 jobId, uint96 keep) external onlyMarketplace {
        Record storage record = _existing(jobId);
        uint96 locked = record.locked;
        if (locked <= keep) return;

        record.locked = keep;
        _payUser(jobId, record, locked - keep);
    }

    // ------------------------------------------------------------------- admin

    /// @inheritdoc IPaymentEscrow
    function allowToken(address token) external onlyRole(DEFAULT_ADMIN_ROLE) {
        Token storage entry = _tokens[token];
        if (!entry.known) {
            uint16 index = _tokenCount;
            if (index == MAX_TOKENS) revert TooManyTokens();
            entry.index = index;
            entry.known = true;
            _tokenAt[index] = token;
            _tokenCount = index + 1;
        }
        entry.allowed = true;
        emit TokenAllowed(token, entry.index);
    }

    /// @inheritdoc IPaymentEscrow
    function removeToken(address token) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _allowedIndex(token);
        _tokens[token].allowed = false;
        emit TokenRemoved(token);
    }

    /// @inheritdoc IPaymentEscrow
    function withdrawFees(address token, address to) external nonReentrant onlyRole(DEFAULT_ADMIN_ROLE) {
        if (!_tokens[token].known) revert TokenNotAllowed(token);
        if (to == address(0)) revert RecipientZero();
        uint16 index = _tokens[token].index;
        uint256 amount = _fees[index];
        if (amount == 0) revert AmountZero();

        _fees[index] = 0;
        emit FeesWithdrawn(token, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    // ------------------------------------------------------------------- views

    /// @inheritdoc IPaymentEscrow
    function escrows(bytes32 jobId) external view returns (EscrowRecord memory) {
        Record memory record = _records[jobId];
        bool exists = record.user != address(0);
        return EscrowRecord({
            jobId: jobId,
            user: record.user,
            provider: record.provider,
            token: exists ? _tokenAt[record.tokenIndex] : address(0),
            lockedAmount: record.locked,
            feeBps: record.feeBps,
            completed: exists && record.locked == 0
        });
    }

    /// @inheritdoc IPaymentEscrow
    function lockOf(bytes32 jobId) external view returns (address user, uint96 lockedAmount) {
        Record storage record = _records[jobId];
        return (record.user, record.locked);
    }

    /// @inheritdoc IPaymentEscrow
    function providerOf(bytes32 jobId) external view returns (address provider) {
        return _records[jobId].provider;
    }

    /// @inheritdoc IPaymentEscrow
    function hostOf(bytes32 jobId) external view returns (address provider, uint64 memo) {
        Record storage record = _records[jobId];
        return (record.provider, record.memo);
    }

    /// @inheritdoc IPaymentEscrow
    function partiesOf(bytes32 jobId) external view returns (address user, address provider, uint64 memo) {
        Record storage record = _records[jobId];
        return (record.user, record.provider, record.memo);
    }

    function balanceOf(address token, address account) external view returns (uint256) {
        Token memory entry = _tokens[token];
        return entry.known ? _balances[entry.index][account] : 0;
    }

    function feesOf(address token) external view returns (uint256) {
        Token memory entry = _tokens[token];
        return entry.known ? _fees[entry.index] : 0;
    }

    function isTokenAllowed(address token) external view returns (bool) {
        return _tokens[token].allowed;
    }

    function tokens() external view returns (address[] memory list) {
        list = new address[](_tokenCount);
        for (uint16 i = 0; i < list.length; ++i) {
            list[i] = _tokenAt[i];
        }
    }

    // ----------------------------------------------------------------- private

    function _existing(bytes32 jobId) private view returns (Record storage record) {
        record = _records[jobId];
        if (record.user == address(0)) revert EscrowMissing(jobId);
    }

    function _allowedIndex(address token) private view returns (uint16) {
        Token memory entry = _tokens[token];
        if (!entry.allowed) revert TokenNotAllowed(token);
        return entry.index;
    }

    function _unlock(bytes32 jobId, uint96 amount) private returns (Record storage record) {
        record = _existing(jobId);
        uint96 locked = record.locked;
        if (amount > locked) revert EscrowInsufficient(jobId, locked, amount);
        record.locked = locked - amount;
    }

    function _payProvider(bytes32 jobId, Record storage record, uint96 amount) private {
        (address provider, uint16 index, uint16 feeBps) = (record.provider, record.tokenIndex, record.feeBps);
        uint96 fee = uint96(Settlement.fee(amount, feeBps)); // at most `amount`
        if (fee > 0) _fees[index] += fee;
        _balances[index][provider] += amount - fee;
        emit FundsReleased(jobId, provider, amount - fee, fee);
    }

    function _payUser(bytes32 jobId, Record storage record, uint96 amount) private {
        (address user, uint16 index) = (record.user, record.tokenIndex);
        _balances[index][user] += amount;
        emit Refunded(jobId, user, amount);
    }

    /// @dev From the payer's balance here first, the remainder from its wallet.
    function _take(address token, uint16 index, address payer, uint256 amount) private {
        uint256 balance = _balances[index][payer];
        uint256 drawn = balance < amount ? balance : amount;
        if (drawn > 0) _balances[index][payer] = balance - drawn;
        if (drawn < amount) _receive(token, payer, amount - drawn);
    }

    function _receive(address token, address from, uint256 amount) private {
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(from, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert TokenAmountMismatch(token, amount, received);
    }
}
