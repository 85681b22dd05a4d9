// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Every token of every job
/// @notice Not upgradeable. The market decides how a job's money is split; this contract decides who can possibly
/// receive it: the job's renter, its provider, and a fee of at most `MAX_FEE_BPS`. All payments are pulled: a party whose token
/// transfers fail harms only itself. Tokens are allow-listed; a token that delivers less than asked is refused.
interface IPaymentEscrow {
    struct EscrowRecord {
        bytes32 jobId;
        address user;
        address provider;
        address token;
        uint96 lockedAmount;
        uint16 feeBps;
        bool completed; // nothing is locked any more
    }

    event TokenAllowed(address indexed token, uint16 index);
    event TokenRemoved(address indexed token);
    event Deposited(address indexed account, address indexed token, uint256 amount);
    event Withdrawn(address indexed account, address indexed token, address to, uint256 amount);
    event FundsLocked(bytes32 indexed jobId, address indexed payer, address token, uint96 amount);
    /// @param amount Credited to the provider, the fee already taken off: the job paid `amount + fee`
    event FundsReleased(bytes32 indexed jobId, address indexed provider, uint96 amount, uint96 fee);
    event Refunded(bytes32 indexed jobId, address indexed user, uint96 amount);
    event FeesWithdrawn(address indexed token, address indexed to, uint256 amount);

    error CallerNotMarketplace(address caller);
    error TokenNotAllowed(address token);
    error TokenAmountMismatch(address token, uint256 expected, uint256 received);
    error TooManyTokens();
    error EscrowExists(bytes32 jobId);
    error EscrowMissing(bytes32 jobId);
    error EscrowInsufficient(bytes32 jobId, uint96 locked, uint96 asked);
    error AmountTooLarge(uint256 amount);
    error AmountZero();
    error BalanceInsufficient(address account, address token, uint256 balance, uint256 asked);
    error FeeAboveCap(uint16 feeBps, uint16 maximum);
    error RecipientZero();

    // --------------------------------------------------------- accounts: pull

    function deposit(address token, uint256 amount) external;
    /// @notice Takes the caller's whole or partial balance out, to any address.
    function withdraw(address token, uint256 amount, address to) external;

    // -------------------------------------------------------- the market only

    /// @notice Locks `amount` for a new job: from the user's balance here first, the remainder from its wallet.
    /// @param memo What the market wants to read back beside the provider; means nothing here
    function lockFunds(
        bytes32 jobId,
        address token,
        uint96 amount,
        address user,
        address provider,
        uint16 feeBps,
        uint64 memo
    ) external;
    /// @notice Adds to a job's lock, paid by `payer`.
    function addFunds(bytes32 jobId, uint96 amount, address payer) external;
    /// @notice Ends a job's escrow: `actualCost` to the provider less the fee, everything else back to the user.
    function releaseFunds(bytes32 jobId, uint96 actualCost) external returns (address provider);
    /// @notice Pays `amount` of the lock to the provider, less the fee.
    function partialRelease(bytes32 jobId, uint96 amount) external;
    /// @notice Gives `amount` of the lock back to the user.
    function refund(bytes32 jobId, uint96 amount) external;
    /// @notice Gives what is locked above `keep` back to the user; nothing if there is none.
    function refundAbove(bytes32 jobId, uint96 keep) external;

    // ------------------------------------------------------------------- admin

    function allowToken(address token) external;
    /// @notice For new jobs only: what is locked or owed in this token stays payable.
    function removeToken(address token) external;
    function withdrawFees(address token, address to) external;

    // ------------------------------------------------------------------- views

    function escrows(bytes32 jobId) external view returns (EscrowRecord memory);
    /// @notice One storage read each, for the market.
    function lockOf(bytes32 jobId) external view returns (address user, uint96 lockedAmount);
    function providerOf(bytes32 jobId) external view returns (address provider);
    function hostOf(bytes32 jobId) external view returns (address provider, uint64 memo);
    function partiesOf(bytes32 jobId) external view returns (address user, address provider, uint64 memo);
    function balanceOf(address token, address account) external view returns (uint256);
    function feesOf(address token) external view returns (uint256);
    function isTokenAllowed(address token) external view returns (bool);
    function tokens() external view returns (address[] memory);
    function MAX_FEE_BPS() external view returns (uint16);
    function marketplace() external view returns (address);
}
