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

# One argument of words and one answer of words: each further one costs the client as much as the rest together.
# KEYS: for each limit its bucket, and where it has a quota also quota and open. ARGV[2]: for each limit requests a
# minute, tokens a minute, tokens a period (-1: none).
LIMITS = """
local words, limits, key = {}, {}, 1
for word in string.gmatch(ARGV[1], '%S+') do words[#words + 1] = word end
for rpm, tpm, most in string.gmatch(ARGV[2], '(%S+) (%S+) (%S+)') do
  local limit = {rpm = tonumber(rpm), tpm = tonumber(tpm), most = tonumber(most), bucket = KEYS[key]}
  key = key + 1
  if limit.most >= 0 then limit.quota, limit.open = KEYS[key], KEYS[key + 1]; key = key + 2 end
  limits[#limits + 1] = limit
end
"""

# ARGV[1]: now in ms (0: the store's clock), tokens, reservation id, its life in ms, quotas' time to live in s.
# Answers "code, index of the limit, ms to wait" or "0, requests: limit, left, ms to full, tokens: limit, left, ms".
RESERVE = f"""{LIMITS}
local now = tonumber(words[1])
if now == 0 then local t = redis.call('TIME'); now = t[1] * 1000 + math.floor(t[2] / 1000) end
local tokens, unit = tonumber(words[2]), {UNIT}
local function no(code, index, fact) return string.format('%d %d %.0f', code, index - 1, fact) end
local shown_r, shown_t
for i, limit in ipairs(limits) do
  local bucket, quota, open = limit.bucket, limit.quota, limit.open
  local rpm, tpm, most = limit.rpm, limit.tpm, limit.most
  local r, t = rpm * unit, tpm * unit
  local kept = redis.call('HMGET', bucket, 'r', 't', 'at')
  local at = math.max(now, kept[3] or 0)  -- a clock that lags refills nothing twice
  local since = kept[3] and at - kept[3] or 0
  if kept[1] then r = math.min(r, kept[1] + since * rpm) end
  if kept[2] then t = math.min(t, kept[2] + since * tpm) end
  if rpm >= 0 and r < unit then
    if rpm == 0 then return no({TOO_MUCH}, i, 0) end
    return no({BURST_REQUESTS}, i, math.ceil((unit - r) / rpm))
  end
  if tpm >= 0 and t < tokens * unit then
    if tokens > tpm then return no({TOO_MUCH}, i, tpm) end
    return no({BURST_TOKENS}, i, math.ceil((tokens * unit - t) / tpm))
  end
  if most >= 0 then
    local gone = redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, 100)
    for _, member in ipairs(gone) do
      redis.call('ZREM', open, member)
      redis.call('HINCRBY', quota, 'reserved', -tonumber(string.match(member, ':(%d+)$')))
      redis.call('HDEL', quota, 'base')
    end
    local used = redis.call('HMGET', quota, 'base', 'delta', 'reserved')
    if not used[1] then return no({BUILD}, i, 0) end
    local left = most - used[1] - (used[2] or 0) - (used[3] or 0)
    if tokens > left then return no({QUOTA}, i, math.max(0, left)) end
  end
  limit.r, limit.t, limit.at = r - unit, t - tokens * unit, at
end
for _, limit in ipairs(limits) do
  local bucket, quota, open = limit.bucket, limit.quota, limit.open
  local rpm, tpm, r, t = limit.rpm, limit.tpm, limit.r, limit.t
  if rpm >= 0 then redis.call('HSET', bucket, 'r', string.format('%.0f', r)) end
  if tpm >= 0 then redis.call('HSET', bucket, 't', string.format('%.0f', t)) end
  if rpm >= 0 or tpm >= 0 then
    redis.call('HSET', bucket, 'at', string.format('%.0f', limit.at))
    redis.call('PEXPIRE', bucket, 120000)
  end
  if quota and redis.call('ZADD', open, now + words[4], words[3] .. ':' .. words[2]) == 1 then
    redis.call('HINCRBY', quota, 'reserved', tokens)
    redis.call('EXPIRE', open, words[5])
  end
  if rpm >= 0 and (not shown_r or r < shown_r[4]) then
    shown_r = {{rpm, math.floor(r / unit), math.ceil((rpm * unit - r) / rpm), r}}
  end
  if tpm >= 0 and (not shown_t or t < shown_t[4]) then
    shown_t = {{tpm, math.floor(t / unit), math.ceil((tpm * unit - t) / tpm), t}}
  end
end
shown_r, shown_t = shown_r or {{-1, 0, 0}}, shown_t or {{-1, 0, 0}}
return string.format('{ADMITTED} %.0f %.0f %.0f %.0f %.0f %.0f',
  shown_r[1], shown_r[2], shown_r[3], shown_t[1], shown_t[2], shown_t[3])
"""

# ARGV[1]: reserved tokens, reservation id, tokens used, requests given back (0 or 1), quotas' time to live in s.
SETTLE = f"""{LIMITS}
local reserved, used, unit = tonumber(words[1]), tonumber(words[3]), {UNIT}
for _, limit in ipairs(limits) do
  local bucket, quota, rpm, tpm = limit.bucket, limit.quota, limit.rpm, limit.tpm
  local kept = redis.call('HMGET', bucket, 'r', 't')
  if rpm >= 0 and kept[1] and words[4] ~= '0' then
    redis.call('HSET', bucket, 'r', string.format('%.0f', math.min(rpm * unit, kept[1] + words[4] * unit)))
  end
  if tpm >= 0 and kept[2] and used ~= reserved then
    redis.call('HSET', bucket, 't', string.format('%.0f', math.min(tpm * unit, kept[2] + (reserved - used) * unit)))
  end
  if quota then
    if redis.call('ZREM', limit.open, words[2] .. ':' .. words[1]) == 1 then
      redis.call('HINCRBY', quota, 'reserved', -reserved)
    end
    if used > 0 then redis.call('HINCRBY', quota, 'delta', used) end
    redis.call('EXPIRE', quota, words[5])
    redis.call('EXPIRE', limit.open, words[5])
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
