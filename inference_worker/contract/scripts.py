"""Lua that fences: each script checks the attempt, so a worker that was given up can write nothing.

Leases use the store's own clock (TIME), so machines' clocks need not agree. Answers are the constants below.

Calls travel in batches, and whoever may write to a store may put anything into a key. So what lies in the keys of one
job never makes a call fail: it is read as if it were not there, and replaced where a new attempt is offered. What is
left to fail is the store's own (full, read-only), which is the same for every call.
"""

from __future__ import annotations

OK = 0
STALE = 1  # another attempt is current, or the store lost the job: stop, and write nothing
CANCELLED = 2  # the client went away: stop the engine, then write the final frame
TAKEN = 3  # CLAIM only: another delivery of the same message came first

# A key of another type than ours, as `pcall` answers for it; and the fields of a hash, none where it is no hash.
SOUND = """
local function broken(answer)
  return type(answer) == 'table' and answer.err ~= nil and string.find(answer.err, 'WRONGTYPE') ~= nil
end
local function fields(key, ...)
  local found = redis.pcall('HMGET', key, ...)
  if broken(found) then return {} end
  return found
end
"""
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
{SOUND}
{NOW}
local answers = {{}}
for i, key in ipairs(KEYS) do
  local job = fields(key, 'attempt', 'worker', 'cancelled', 'done')
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
  -- The web process may have lost its stream to somebody's rubbish: it reads the stream of frames then.
  redis.pcall('XADD', KEYS[3], '*', 'j', ARGV[1], 'a', ARGV[2], 's', ARGV[4], 'f', ARGV[5])
end
redis.call('HSET', KEYS[1], 'next', expected + 1)
if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'done', '1') end
return {OK}
"""

OFFER = f"""
-- The dispatcher's side: a new attempt becomes current only if it is higher than the one known.
-- KEYS: job hash; and, to push onto a list here: queue list, counter of the queue.
-- ARGV: attempt, job ttl s, and, to push: envelope
{SOUND}
local function replacing(key, ...)  -- what is not ours in a key goes
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or answer.err == nil then return answer end
  if not string.find(answer.err, 'WRONGTYPE') and not string.find(answer.err, 'not an integer') then return answer end
  redis.call('DEL', key)
  return redis.call(...)
end
local current = tonumber(fields(KEYS[1], 'attempt')[1] or '0') or 0
if tonumber(ARGV[1]) <= current then return 1 end
{NOW}
-- First what a full store refuses: after another write it would let the rest pass, and then refuse the claim.
local probed = redis.pcall('HSET', KEYS[1], 'offered', now)
if type(probed) == 'table' and not broken(probed) then return probed end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'offered', now)
if KEYS[3] then
  local number = replacing(KEYS[3], 'INCR', KEYS[3])
  if type(number) == 'table' then return number end
  redis.call('HSET', KEYS[1], 'number', number)
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if KEYS[2] then
  local pushed = replacing(KEYS[2], 'LPUSH', KEYS[2], ARGV[3])
  if type(pushed) == 'table' then return pushed end
end
return 0
"""

MARK = f"""
-- The dispatcher's side, for a broker beside the store: the message of an attempt lies in its queue for certain.
-- KEYS: job hash, counter of the queue. ARGV: attempt
{SOUND}
if fields(KEYS[1], 'attempt')[1] ~= ARGV[1] then return 1 end
local number = redis.pcall('INCR', KEYS[2])
if type(number) == 'table' then
  redis.call('DEL', KEYS[2])
  number = redis.call('INCR', KEYS[2])
end
redis.call('HSET', KEYS[1], 'number', number)
return 0
"""

LOOK = f"""
-- What dispatcher and sweeper ask. KEYS: job hash, counter of its queue; and, where the queue is a list here, that.
-- Answers attempt, worker, ms of lease left (negative: expired), done, cancelled, refused, ms since it was offered,
-- ms since the message was first missed in the queue (-1: it is there, or claimed, or the queue is not here), and how
-- many were put in after it (-1: it was not put in for certain).
-- Queues are first in, first out: when no more messages lie there than came after it, it was taken.
-- A full store takes no note of when a message was first missed: there it counts from when it was offered.
{SOUND}
{NOW}
local job = fields(
  KEYS[1], 'attempt', 'worker', 'lease', 'done', 'cancelled', 'refused', 'number', 'offered', 'missed'
)
local offered, first = tonumber(job[8] or now) or now, tonumber(job[9] or now) or now
local left = job[3] and ((tonumber(job[3]) or now) - now) or 0
local waited = now - offered
local missed, after = -1, -1
local number = tonumber(job[7] or '')
if number then
  local count = redis.pcall('GET', KEYS[2])
  after = (type(count) == 'string' and tonumber(count) or 0) - number
  if KEYS[3] and not job[2] then
    local length = redis.pcall('LLEN', KEYS[3])
    if type(length) == 'table' or length <= after then
      if not job[9] then
        local noted = redis.pcall('HSET', KEYS[1], 'missed', now)
        if type(noted) == 'table' then first = offered end
      end
      missed = now - first
    end
  end
end
return {{job[1] or '', job[2] or '', left, job[4] or '', job[5] or '', job[6] or '', waited, missed, after}}
"""

MISS = f"""
-- The same clock for a queue that is not here. KEYS: job hash. ARGV: attempt, '1' when its message is missed there.
-- Answers ms since it was first missed, -1 when it is not.
{SOUND}
{NOW}
local job = fields(KEYS[1], 'attempt', 'worker', 'missed', 'offered')
if job[1] ~= ARGV[1] or job[2] then return -1 end
if ARGV[2] ~= '1' then
  redis.call('HDEL', KEYS[1], 'missed')
  return -1
end
local first = tonumber(job[3] or now) or now
if not job[3] then
  local noted = redis.pcall('HSET', KEYS[1], 'missed', now)
  if type(noted) == 'table' then first = tonumber(job[4] or now) or now end
end
return now - first
"""

REFUSE = f"""
-- The collector's side: notes why a worker would not run an attempt. KEYS: job hash. ARGV: attempt, code
{SOUND}
if fields(KEYS[1], 'attempt')[1] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'refused', ARGV[2])
return 1
"""

CANCEL = f"""
-- KEYS: job hash. Marks a job that exists; answers 1 when it did.
{SOUND}
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local set = redis.pcall('HSET', KEYS[1], 'cancelled', '1')
if broken(set) then return 0 end
if type(set) == 'table' then return set end
return 1
"""
