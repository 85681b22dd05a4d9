// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IMarketplace} from "../../../contracts/interfaces/IMarketplace.sol";
import {IPaymentEscrow} from "../../../contracts/interfaces/IPaymentEscrow.sol";
import {MarketTest} from "../support/MarketTest.sol";

/// @notice Random people do random things, and a ledger of its own writes down where each job's money went. Calls may fail; what
/// succeeds must obey.
contract MarketHandler is MarketTest {
    struct Ledger {
        uint256 paidIn;
        uint256 toProvider;
        uint256 toRenter;
        uint256 toFee;
    }

    address[] public people;
    bytes32[] public jobs;
    bytes32[2] internal machines;
    mapping(bytes32 jobId => Ledger) public ledgers;
    mapping(bytes32 jobId => IMarketplace.Job) internal seen;
    mapping(bytes4 selector => uint256) public successes;
    string public violation;
    uint256 internal clock;

    modifier inTime() {
        vm.warp(clock);
        _;
        clock = vm.getBlockTimestamp();
    }

    function setUp() public override {
        super.setUp();
        clock = vm.getBlockTimestamp();
        machines = [resourceId, _list(stranger)];
        vm.prank(provider);
        vault.stake(10 * STAKE); // slashes must not end the market
        people = [renter, provider, stranger, address(0xCAFE)];
        vm.prank(provider);
        registry.setReclaimNotice(resourceId, 1);
        _fund(people[3]);
    }

    // ----------------------------------------------------------------- actions

    function pass(uint256 time) external inTime {
        vm.warp(clock + (time % 3 == 0 ? time % 1 hours : time % 1 minutes));
    }

    function create(uint256 who, uint256 machine, uint40 duration) external inTime {
        bytes32 id = machines[machine % 2];
        address user = people[who % 4];
        uint256 credit = _credit(user);
        uint256 wallet = token.balanceOf(user);
        vm.prank(user);
        (bool done, bytes memory result) = address(market)
            .call(
                abi.encodeWithSignature(
                    "createJob(bytes32,bytes32,uint256)", id, IMAGE, uint256(60) + duration % 1 hours
                )
            );
        if (!done) return;
        successes[this.create.selector]++;
        bytes32 jobId = abi.decode(result, (bytes32));
        jobs.push(jobId);
        ledgers[jobId].paidIn = credit - _credit(user) + wallet - token.balanceOf(user);
        _check(jobId);
    }

    function extend(uint256 who, uint256 job, uint40 time) external inTime {
        if (jobs.length == 0) return;
        bytes32 jobId = jobs[job % jobs.length];
        address payer = people[who % 4];
        uint256 funds = _credit(payer) + token.balanceOf(payer);
        vm.prank(payer);
        (bool done,) = address(market).call(abi.encodeCall(market.extendJob, (jobId, 1 + time % 2 hours)));
        if (!done) return;
        successes[this.extend.selector]++;
        ledgers[jobId].paidIn += funds - _credit(payer) - token.balanceOf(payer);
        _check(jobId);
    }

    /// @notice A call that takes only a job: mostly one that its status allows, by whoever may; sometimes anything, by anybody.
    function act(uint256 who, uint256 job, uint256 call) external inTime {
        if (jobs.length == 0) return;
        // Mostly a new job: an older one is over.
        bytes32 jobId = jobs[jobs.length - 1 - job % (jobs.length > 3 ? 3 : jobs.length)];
        IMarketplace.Job memory found = market.getJob(jobId);
        IMarketplace.JobStatus status = call % 8 == 0 ? IMarketplace.JobStatus(call / 8 % 6) : found.status;
        bytes4 selector = _choose(status, call / 8);
        bool renters = selector == market.cancelJob.selector || selector == market.stopJob.selector;
        address caller = who % 8 == 0 ? people[who / 8 % 4] : renters ? found.user : found.provider;
        bytes memory data = abi.encodeWithSelector(selector, jobId);
        if (selector == market.settleBatch.selector || selector == market.expireBatch.selector) {
            bytes32[] memory both = new bytes32[](2);
            (both[0], both[1]) = (jobId, jobId);
            data = abi.encodeWithSelector(selector, both);
        }
        _try(caller, jobId, data, selector);
    }

    /// @notice The renter allows renewals, and anyone executes them.
    function renew(uint256 who, uint256 job, uint40 time) external inTime {
        if (jobs.length == 0) return;
        bytes32 jobId = jobs[jobs.length - 1 - job % (jobs.length > 3 ? 3 : jobs.length)];
        IMarketplace.Job memory found = market.getJob(jobId);
        vm.prank(who % 4 == 0 ? people[who % 3] : found.user);
        (bool done,) = address(market)
            .call(abi.encodeCall(market.setAutoRenew, (jobId, 1 + time % 1 hours, _now() + 3 hours, type(uint128).max)));
        if (!done) return;
        if (found.startedAt != 0 && who % 2 == 0) vm.warp(found.startedAt + found.duration - 1);
        if (_now() < clock) vm.warp(clock);
        uint256 funds = _credit(found.user) + token.balanceOf(found.user);
        (done,) = address(market).call(abi.encodeCall(market.renewJob, (jobId)));
        if (!done) return;
        successes[this.renew.selector]++;
        ledgers[jobId].paidIn += funds - _credit(found.user) - token.balanceOf(found.user);
        _check(jobId);
    }

    function _choose(IMarketplace.JobStatus status, uint256 pick) private view returns (bytes4) {
        if (status == IMarketplace.JobStatus.Created) {
            bytes4[4] memory created = [
                market.acceptJob.selector,
                market.acceptAndStartJob.selector,
                market.cancelJob.selector,
                market.expireJob.selector
            ];
            return created[pick % 4];
        }
        if (status == IMarketplace.JobStatus.Accepted) {
            return pick % 4 == 0 ? market.expireJob.selector : market.startJob.selector;
        }
        if (status == IMarketplace.JobStatus.Running) {
            bytes4[7] memory running = [
                bytes4(keccak256("completeJob(bytes32)")),
                market.stopJob.selector,
                market.settleJob.selector,
                market.endJob.selector,
                market.reclaimJob.selector,
                market.settleBatch.selector,
                market.expireBatch.selector
            ];
            return running[pick % 7];
        }
        return status == IMarketplace.JobStatus.Disputed ? market.resolveByTimeout.selector : market.settleJob.selector;
    }

    function dispute(uint256 who, uint256 job) external inTime {
        if (jobs.length == 0) return;
        bytes32 jobId = jobs[job % jobs.length];
        _try(
            who % 2 == 0 ? people[who % 4] : market.getJob(jobId).user,
            jobId,
            abi.encodeCall(market.disputeJob, (jobId, "")),
            this.dispute.selector
        );
    }

    function judge(uint256 job, uint256 verdict) external inTime {
        if (jobs.length == 0) return;
        bytes32 jobId = jobs[job % jobs.length];
        bytes memory data = abi.encodeCall(market.resolveDispute, (jobId, IMarketplace.Verdict(verdict % 3)));
        _try(address(committee), jobId, data, this.judge.selector);
    }

    function outage(uint256 job, uint40 ago, uint40 length) external inTime {
        if (jobs.length == 0) return;
        bytes32 jobId = jobs[jobs.length - 1 - job % (jobs.length > 2 ? 2 : jobs.length)];
        uint40 from = _now() - ago % 2 hours;
        bytes memory data = abi.encodeCall(market.recordOutage, (jobId, from, from + length % 1 hours));
        _try(address(committee), jobId, data, this.outage.selector);
    }

    function death(uint256 job, uint40 ago) external inTime {
        if (jobs.length == 0 || ago % 2 != 0) return;
        bytes32 jobId = jobs[jobs.length - 1 - job % (jobs.length > 2 ? 2 : jobs.length)];
        bytes memory data = abi.encodeCall(market.recordDeath, (jobId, _now() - ago % 1 hours));
        _try(address(committee), jobId, data, this.death.selector);
    }

    function reprice(uint256 machine, uint96 price) external inTime {
        vm.prank(machine % 2 == 0 ? provider : stranger);
        registry.updatePricing(machines[machine % 2], uint256(1) + price % 100 ether);
    }

    function refee(uint16 bps, bool paused) external inTime {
        market.setFee(bps % 501);
        (bool done,) = address(market).call(abi.encodeWithSignature(paused && bps % 8 == 0 ? "pause()" : "unpause()"));
        if (done) successes[this.refee.selector]++;
    }

    function bank(uint256 who, uint256 amount, bool out) external inTime {
        address account = people[who % 4];
        uint256 credit = _credit(account);
        if (out && credit == 0) return;
        vm.prank(account);
        if (!out) escrow.deposit(address(token), 1 + amount % 100 ether);
        // Whatever is credited can be taken out, also while paused.
        else escrow.withdraw(address(token), 1 + amount % credit, account);
    }

    function bond(uint256 who, uint256 amount, uint256 call) external inTime {
        address account = people[who % 4];
        bytes memory data;
        if (call % 4 == 0) data = abi.encodeCall(vault.stake, (1 + amount % 200 ether));
        else if (call % 4 == 1) data = abi.encodeCall(vault.requestUnstake, (1 + amount % 20 ether));
        else if (call % 4 == 2) data = abi.encodeCall(vault.withdrawStake, (account));
        else data = abi.encodeCall(vault.withdrawCompensation, (account));
        vm.prank(account);
        (bool done,) = address(vault).call(data);
        if (done) successes[this.bond.selector]++;
    }

    function slash(uint256 who, uint256 amount, uint256 cap) external inTime {
        address account = people[who % 4];
        uint256 before = uint256(vault.stakeOf(account).active) + vault.stakeOf(account).pending;
        vm.prank(address(committee));
        uint256 taken =
            vault.slash(account, amount % 10 ether, renter, cap % 10 ether, provider, cap % 7 ether, bytes32(0));
        uint256 left = uint256(vault.stakeOf(account).active) + vault.stakeOf(account).pending;
        if (taken > before || left + taken != before) violation = "a slash took more than was there";
    }

    // ------------------------------------------------------------------ ledger

    function _try(address caller, bytes32 jobId, bytes memory data, bytes4 counter) private {
        IPaymentEscrow.EscrowRecord memory record = escrow.escrows(jobId);
        uint256 user = _credit(record.user);
        uint256 host = _credit(record.provider);
        uint256 fees = escrow.feesOf(address(token));
        vm.prank(caller);
        (bool done,) = address(market).call(data);
        if (!done) return;
        successes[counter]++;
        Ledger storage ledger = ledgers[jobId];
        ledger.toFee += escrow.feesOf(address(token)) - fees;
        if (record.user == record.provider) {
            ledger.toProvider += _credit(record.provider) - host;
        } else {
            ledger.toProvider += _credit(record.provider) - host;
            ledger.toRenter += _credit(record.user) - user;
        }
        _check(jobId);
    }

    function _check(bytes32 jobId) private {
        IMarketplace.Job memory a = seen[jobId];
        IMarketplace.Job memory b = market.getJob(jobId);
        if (a.status != b.status && !_arrow(a.status, b.status)) violation = "an arrow nobody drew";
        if (b.since < a.since || b.duration < a.duration || b.settledSeconds < a.settledSeconds) {
            violation = "time went back";
        }
        if (a.outageSeconds > b.outageSeconds) violation = "an outage was taken back";
        if (a.startedAt != 0 && a.startedAt != b.startedAt) violation = "a start moved";
        if (a.endedAt != 0 && a.endedAt != b.endedAt) violation = "an end moved";
        if (a.status != IMarketplace.JobStatus.None && (a.pricePerHour != b.pricePerHour || a.user != b.user)) {
            violation = "terms changed";
        }
        seen[jobId] = b;
    }

    function _arrow(IMarketplace.JobStatus from, IMarketplace.JobStatus to) private pure returns (bool) {
        uint256[8] memory next = [
            uint256(1 << 1), // None: Created
            (1 << 2) | (1 << 3) | (1 << 7), // Created: Accepted, Running, Cancelled
            (1 << 3) | (1 << 5) | (1 << 7), // Accepted: Running, Disputed, Cancelled
            (1 << 4) | (1 << 5), // Running: Completed, Disputed
            1 << 5, // Completed: Disputed
            1 << 6, // Disputed: Resolved
            0,
            0
        ];
        return next[uint8(from)] & (1 << uint8(to)) != 0;
    }

    // ------------------------------------------------------------------- sides

    function lockedSum() public view returns (uint256 sum) {
        for (uint256 i = 0; i < jobs.length; ++i) {
            sum += _locked(jobs[i]);
        }
    }

    function creditSum() public view returns (uint256 sum) {
        for (uint256 i = 0; i < people.length; ++i) {
            sum += _credit(people[i]);
        }
    }

    function bondSum() public view returns (uint256 sum) {
        for (uint256 i = 0; i < people.length; ++i) {
            sum += uint256(vault.stakeOf(people[i]).active) + vault.stakeOf(people[i]).pending;
            sum += vault.compensationOf(people[i]);
        }
    }

    function escrowHolds() external view returns (uint256 balance, uint256 owed) {
        return (token.balanceOf(address(escrow)), lockedSum() + creditSum() + escrow.feesOf(address(token)));
    }

    function vaultHolds() external view returns (uint256 balance, uint256 owed) {
        return (token.balanceOf(address(vault)), bondSum());
    }

    function jobCount() external view returns (uint256) {
        return jobs.length;
    }

    function jobAt(uint256 index)
        external
        view
        returns (IMarketplace.Job memory job, Ledger memory ledger, uint256 time)
    {
        return (market.getJob(jobs[index]), ledgers[jobs[index]], clock);
    }

    /// @notice Lets the due call of a job be executed by a stranger, again and again: all money must come free.
    function wind(uint256 index) external inTime returns (uint256 locked) {
        bytes32 jobId = jobs[index];
        for (uint256 step = 0; step < 3; ++step) {
            IMarketplace.Deadline memory due = market.nextDeadline(jobId);
            if (due.selector == bytes4(0)) break;
            if (_now() < due.timestamp) vm.warp(due.timestamp);
            vm.prank(address(0xD00D));
            (bool done,) = address(market).call(abi.encodeWithSelector(due.selector, jobId));
            if (!done) return type(uint256).max;
        }
        return _locked(jobId);
    }
}
