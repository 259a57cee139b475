-- A link within a notebook names a heading as JupyterLab does, #The-loop,-by-hand. On this site that's #the-loop-by-hand.
function Link(link)
  if not link.target:match('^%a+:') then
    link.target = link.target:gsub('#.*', function(anchor) return '#' .. anchor:lower():gsub('[^%w%-_.]', '') end)
    return link
  end
end
