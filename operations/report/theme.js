// Before anything is painted: the theme that the reader chose last, if storage is to be had.
try {
  const theme = localStorage.getItem("tickworks-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch (error) {
  document.documentElement.dataset.storage = "none";
}
