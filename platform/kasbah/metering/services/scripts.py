"""The Lua that counts, in the control plane's own store. One call decides and takes, so nothing slips between.

Buckets (`ksb:bucket:<limit id>`, hash r, t, at): what is left of a minute's requests and tokens, in 1/60,000 of one,
so that a refill for whole milliseconds is a whole number: `limit` units a millisecond, full at limit * 60,000.

Quotas (`ksb:quota:<limit id>:<period>`, hash): `base` what the usage rows said when it was last built, `delta` what
was settled since, `reserved` what runs now; beside it `...:open`, a sorted set of `<reservation>:<tokens>` by the
time it is given up. No `base`: build it from the rows first. A settled request may be counted in both base and
delta for the rest of the period when it ends while its counter is built: a quota may end early, never late.
"""

from __future__ import annotations

ADMITTED, BURST_REQUESTS, BURST_TOKENS, QUOTA, BUILD, TOO_MUCH = range(6)
UNIT = 60_000

CLOCK = """
local now = tonumber(ARGV[1])
if now == 0 then local t = redis.call('TIME'); now = t[1] * 1000 + math.floor(t[2] / 1000) end
"""

# KEYS: for each limit bucket, quota, open. ARGV: now in ms (0: the store's clock), tokens, reservation id,
# reservation's life in ms, quotas' time to live in s, then for each limit requests a minute, tokens a minute, tokens
# a period (-1: none).
# Answers {code, index of the limit, ms to wait} or {0, requests: limit, left, ms to full, tokens: limit, left, ms}
RESERVE = f"""{CLOCK}
local tokens, unit = tonumber(ARGV[2]), {UNIT}
local levels, count = {{}}, #KEYS / 3
local shown_r, shown_t
for i = 0, count - 1 do
  local bucket, quota, open = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
  local rpm, tpm, most = tonumber(ARGV[3 * i + 6]), tonumber(ARGV[3 * i + 7]), tonumber(ARGV[3 * i + 8])
  local r, t = rpm * unit, tpm * unit
  local kept = redis.call('HMGET', bucket, 'r', 't', 'at')
  local at = math.max(now, kept[3] or 0)  -- a clock that lags refills nothing twice
  local since = kept[3] and at - kept[3] or 0
  if kept[1] then r = math.min(r, kept[1] + since * rpm) end
  if kept[2] then t = math.min(t, kept[2] + since * tpm) end
  if rpm >= 0 and r < unit then
    if rpm == 0 then return {{{TOO_MUCH}, i, 0}} end
    return {{{BURST_REQUESTS}, i, math.ceil((unit - r) / rpm)}}
  end
  if tpm >= 0 and t < tokens * unit then
    if tokens > tpm then return {{{TOO_MUCH}, i, tpm}} end
    return {{{BURST_TOKENS}, i, math.ceil((tokens * unit - t) / tpm)}}
  end
  if most >= 0 then
    local gone = redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, 100)
    for _, member in ipairs(gone) do
      redis.call('ZREM', open, member)
      redis.call('HINCRBY', quota, 'reserved', -tonumber(string.match(member, ':(%d+)$')))
      redis.call('HDEL', quota, 'base')
    end
    local used = redis.call('HMGET', quota, 'base', 'delta', 'reserved')
    if not used[1] then return {{{BUILD}, i, 0}} end
    local left = most - used[1] - (used[2] or 0) - (used[3] or 0)
    if tokens > left then return {{{QUOTA}, i, math.max(0, left)}} end
  end
  levels[i] = {{r, t, at}}
end
for i = 0, count - 1 do
  local bucket, quota, open = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
  local rpm, tpm, most = tonumber(ARGV[3 * i + 6]), tonumber(ARGV[3 * i + 7]), tonumber(ARGV[3 * i + 8])
  local r, t = levels[i][1] - unit, levels[i][2] - tokens * unit
  if rpm >= 0 then redis.call('HSET', bucket, 'r', string.format('%.0f', r)) end
  if tpm >= 0 then redis.call('HSET', bucket, 't', string.format('%.0f', t)) end
  if rpm >= 0 or tpm >= 0 then
    redis.call('HSET', bucket, 'at', string.format('%.0f', levels[i][3]))
    redis.call('PEXPIRE', bucket, 120000)
  end
  if most >= 0 and redis.call('ZADD', open, now + ARGV[4], ARGV[3] .. ':' .. ARGV[2]) == 1 then
    redis.call('HINCRBY', quota, 'reserved', tokens)
    redis.call('EXPIRE', open, ARGV[5])
  end
  if rpm >= 0 and (not shown_r or r < shown_r[4]) then
    shown_r = {{rpm, math.floor(r / unit), math.ceil((rpm * unit - r) / rpm), r}}
  end
  if tpm >= 0 and (not shown_t or t < shown_t[4]) then
    shown_t = {{tpm, math.floor(t / unit), math.ceil((tpm * unit - t) / tpm), t}}
  end
end
shown_r, shown_t = shown_r or {{-1, 0, 0}}, shown_t or {{-1, 0, 0}}
return {{{ADMITTED}, shown_r[1], shown_r[2], shown_r[3], shown_t[1], shown_t[2], shown_t[3]}}
"""

# KEYS as RESERVE. ARGV: reserved tokens, reservation id, tokens used, requests given back (0 or 1), quotas'
# time to live in s, then for each limit requests a minute, tokens a minute, tokens a period.
SETTLE = f"""
local reserved, used, unit = tonumber(ARGV[1]), tonumber(ARGV[3]), {UNIT}
for i = 0, #KEYS / 3 - 1 do
  local bucket, quota, open = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
  local rpm, tpm, most = tonumber(ARGV[3 * i + 6]), tonumber(ARGV[3 * i + 7]), tonumber(ARGV[3 * i + 8])
  local kept = redis.call('HMGET', bucket, 'r', 't')
  if rpm >= 0 and kept[1] then
    redis.call('HSET', bucket, 'r', string.format('%.0f', math.min(rpm * unit, kept[1] + ARGV[4] * unit)))
  end
  if tpm >= 0 and kept[2] then
    redis.call('HSET', bucket, 't', string.format('%.0f', math.min(tpm * unit, kept[2] + (reserved - used) * unit)))
  end
  if most >= 0 then
    if redis.call('ZREM', open, ARGV[2] .. ':' .. ARGV[1]) == 1 then
      redis.call('HINCRBY', quota, 'reserved', -reserved)
    end
    if used > 0 then redis.call('HINCRBY', quota, 'delta', used) end
    redis.call('EXPIRE', quota, ARGV[5])
    redis.call('EXPIRE', open, ARGV[5])
  end
end
return 0
"""

# Building a counter from the usage rows: BEGIN, then ask the database, then FINISH with the answer. What is settled
# after BEGIN counts in delta; a FINISH whose BEGIN was followed by another is refused (its answer may be too old).
BEGIN = """
redis.call('HDEL', KEYS[1], 'base', 'delta')
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'build', 1)
"""
FINISH = """
if redis.call('HGET', KEYS[1], 'build') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'base', ARGV[2])
return 1
"""
