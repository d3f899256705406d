-- change_override.lua: set or remove one override of a limit for a subject.
--
-- Atomic and idempotent: a repeat of a request is answered with what came of it the first time. Each change has a revision, so
-- a reader asks for what changed since the one it knows. What is removed leaves its place among the revisions until it would
-- have ended, and counts towards `most` until then: a reader who was away learns of the removal, or of the end by its clock.
--
-- KEYS[1]    overrides: what is in force, by field.
-- KEYS[2]    revisions: fields by the revision of their last change.
-- KEYS[3]    ends: fields by the time when they end.
-- KEYS[4]    revision: of the last change of any.
-- KEYS[5]    request: what came of this request.
-- ARGV[1]    field: subject, policy and limit, with a space between.
-- ARGV[2]    override: JSON (enforcer.reload.overrides.RunTimeOverride); empty to remove it.
-- ARGV[3]    until_ms: when it ends, milliseconds since the epoch; unused when it is removed.
-- ARGV[4]    subject: kind=value.
-- ARGV[5]    most: overrides that there may be.
-- ARGV[6]    channel: where the change is published.
-- ARGV[7]    keep_ms: how long a request is remembered.
--
-- Fails with REQUEST when the request was another kind of change.
-- Returns { result, revision, is_repeat, at_ms, override }: result 0 done, 1 there is none to remove, 2 there are `most` already;
-- at_ms and override are those of the first call.
--
-- Key types: overrides hash, revisions and ends sorted sets, revision and request strings.

local DONE, UNKNOWN, FULL = 0, 1, 2
local MOST_SWEPT = 1000 -- a call stays under a millisecond

local call, format, floor = redis.call, string.format, math.floor

local overrides_key, revisions_key, ends_key, revision_key, request_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local field, override, until_ms, subject = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, channel, keep_ms = tonumber(ARGV[5]), ARGV[6], ARGV[7]

local stored = call('GET', request_key)
if stored then
  local revision, at_ms, first = string.match(stored, '^override (%d+) (%d+) (.*)$')
  if not revision then
    return redis.error_reply('REQUEST this request id was used for another kind of change')
  end
  return { DONE, tonumber(revision), 1, tonumber(at_ms), first }
end

local time = call('TIME')
local now_ms = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
local ended = call('ZRANGEBYSCORE', ends_key, '-inf', now_ms, 'LIMIT', 0, MOST_SWEPT)
for i = 1, #ended do
  call('HDEL', overrides_key, ended[i])
  call('ZREM', revisions_key, ended[i])
  call('ZREM', ends_key, ended[i])
end

if override == '' then
  if call('HDEL', overrides_key, field) == 0 then
    return { UNKNOWN, 0, 0, now_ms, '' }
  end
else
  if not call('ZSCORE', ends_key, field) and call('ZCARD', ends_key) >= most then
    return { FULL, 0, 0, now_ms, '' }
  end
  call('HSET', overrides_key, field, override)
  call('ZADD', ends_key, until_ms, field)
end
local revision = call('INCR', revision_key)
call('ZADD', revisions_key, revision, field)
call('SET', request_key, format('override %.0f %.0f %s', revision, now_ms, override), 'PX', keep_ms)
call('PUBLISH', channel, format('{"subject":"%s","revision":%.0f}', subject, revision))
return { DONE, revision, 0, now_ms, override }
