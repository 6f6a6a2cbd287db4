-- Deletes dead letters. ARGV: ids. Returns how many were deleted.
local purged = 0
for _, id in ipairs(ARGV) do
  local tenant = call('HGET', dead_key(id), 'tenant')
  purged = purged + call('UNLINK', dead_key(id))
  call('ZREM', deaths_key, id)
  if tenant and tenant ~= '' then call('ZREM', deaths_key .. ':' .. tenant, id) end
end
return purged
