"""Lua that fences: each script checks the attempt, so a worker that was given up can write nothing.

Leases use the store's own clock (TIME), so machines' clocks need not agree. Answers are the constants below.
"""

from __future__ import annotations

OK = 0
STALE = 1  # another attempt is current, or the store lost the job: stop, and write nothing
CANCELLED = 2  # the client went away: stop the engine, then write the final frame
TAKEN = 3  # CLAIM only: another delivery of the same message came first

NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)"

CLAIM = f"""
-- KEYS: job hash. ARGV: attempt, worker, lease ms, nonce of this claim (asking again after a lost answer is harmless)
local job = redis.call('HMGET', KEYS[1], 'attempt', 'worker', 'cancelled', 'done', 'claim')
if job[1] ~= ARGV[1] or job[4] then return {STALE} end
if job[2] and not (job[2] == ARGV[2] and job[5] == ARGV[4]) then return {TAKEN} end
{NOW}
redis.call('HSET', KEYS[1], 'worker', ARGV[2], 'claim', ARGV[4] or '', 'lease', now + ARGV[3])
return job[3] and {CANCELLED} or {OK}
"""

RENEW = f"""
-- KEYS: job hashes. ARGV: worker, lease ms, then one attempt for each key. Answers one code for each key.
{NOW}
local answers = {{}}
for i, key in ipairs(KEYS) do
  local job = redis.call('HMGET', key, 'attempt', 'worker', 'cancelled', 'done')
  if job[1] ~= ARGV[i + 2] or job[2] ~= ARGV[1] or job[4] then answers[i] = {STALE}
  else
    redis.call('HSET', key, 'lease', now + ARGV[2])
    answers[i] = job[3] and {CANCELLED} or {OK}
  end
end
return answers
"""

APPEND = f"""
-- KEYS: job hash, frames stream, replies stream.
-- ARGV: job, attempt, worker, sequence, sealed frames, '1' when terminal, frames ttl s, lease ms
-- Sequences run 0, 1, 2 ...: the one just written may be sent again (its answer was lost) and is not written twice.
local job = redis.call('HMGET', KEYS[1], 'attempt', 'worker', 'cancelled', 'done', 'next')
if job[1] ~= ARGV[2] or job[2] ~= ARGV[3] then return {STALE} end
local expected, sequence = tonumber(job[5] or '0'), tonumber(ARGV[4])
if sequence + 1 == expected then return {OK} end
if job[4] or sequence ~= expected then return {STALE} end
if job[3] and ARGV[6] ~= '1' then return {CANCELLED} end
redis.call('XADD', KEYS[2], '*', 's', ARGV[4], 'f', ARGV[5])
if sequence == 0 or ARGV[6] == '1' then redis.call('EXPIRE', KEYS[2], ARGV[7]) end
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('XADD', KEYS[3], '*', 'j', ARGV[1], 'a', ARGV[2], 's', ARGV[4], 'f', ARGV[5])
end
redis.call('HSET', KEYS[1], 'next', expected + 1)
if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'done', '1') end
return {OK}
"""

OFFER = f"""
-- The dispatcher's side: a new attempt becomes current only if it is higher than the one known.
-- KEYS: job hash; and, to push onto a list here: queue list, counter of the queue.
-- ARGV: attempt, job ttl s, and, to push: envelope
local current = tonumber(redis.call('HGET', KEYS[1], 'attempt') or '0')
if tonumber(ARGV[1]) <= current then return 1 end
{NOW}
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'offered', now)
if KEYS[3] then redis.call('HSET', KEYS[1], 'number', redis.call('INCR', KEYS[3])) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if KEYS[2] then redis.call('LPUSH', KEYS[2], ARGV[3]) end
return 0
"""

MARK = """
-- The dispatcher's side, for a broker beside the store: the message of an attempt lies in its queue for certain.
-- KEYS: job hash, counter of the queue. ARGV: attempt
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then return 1 end
redis.call('HSET', KEYS[1], 'number', redis.call('INCR', KEYS[2]))
return 0
"""

LOOK = f"""
-- What dispatcher and sweeper ask. KEYS: job hash, counter of its queue; and, where the queue is a list here, that.
-- Answers attempt, worker, ms of lease left (negative: expired), done, cancelled, refused, ms since it was offered,
-- ms since the message was first missed in the queue (-1: it is there, or claimed, or the queue is not here), and how
-- many were put in after it (-1: it was not put in for certain).
-- Queues are first in, first out: when no more messages lie there than came after it, it was taken.
{NOW}
local job = redis.call(
  'HMGET', KEYS[1], 'attempt', 'worker', 'lease', 'done', 'cancelled', 'refused', 'number', 'offered', 'missed'
)
local left = job[3] and (tonumber(job[3]) - now) or 0
local waited = job[8] and (now - tonumber(job[8])) or 0
local missed, after = -1, -1
if job[7] then
  after = tonumber(redis.call('GET', KEYS[2]) or '0') - tonumber(job[7])
  if KEYS[3] and not job[2] and redis.call('LLEN', KEYS[3]) <= after then
    if not job[9] then redis.call('HSET', KEYS[1], 'missed', now) end
    missed = now - tonumber(job[9] or now)
  end
end
return {{job[1] or '', job[2] or '', left, job[4] or '', job[5] or '', job[6] or '', waited, missed, after}}
"""

MISS = f"""
-- The same clock for a queue that is not here. KEYS: job hash. ARGV: attempt, '1' when its message is missed there.
-- Answers ms since it was first missed, -1 when it is not.
{NOW}
local job = redis.call('HMGET', KEYS[1], 'attempt', 'worker', 'missed')
if job[1] ~= ARGV[1] or job[2] then return -1 end
if ARGV[2] ~= '1' then
  redis.call('HDEL', KEYS[1], 'missed')
  return -1
end
if not job[3] then redis.call('HSET', KEYS[1], 'missed', now) end
return now - tonumber(job[3] or now)
"""

REFUSE = """
-- The collector's side: notes why a worker would not run an attempt. KEYS: job hash. ARGV: attempt, code
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'refused', ARGV[2])
return 1
"""

CANCEL = """
-- KEYS: job hash. Marks a job that exists; answers 1 when it did.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'cancelled', '1')
return 1
"""
