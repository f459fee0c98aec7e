// Sorts tables by the column whose heading is pressed. Without it every table is there in its own order.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      const numeric = heading.classList.contains("number");
      const text = (row) => row.cells[column].textContent;
      const compare = (a, b) => {
        const [left, right] = [text(a), text(b)];
        if (!left || !right) return (left ? 0 : 1) - (right ? 0 : 1); // empty cells come last in both orders
        return sign * (numeric ? left - right : left.localeCompare(right, "en", { numeric: true }));
      };
      body.append(...[...body.rows].sort(compare));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
    });
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details.print").forEach((part) => (part.open = true)));
